// Drives Firefox by WebDriver BiDi for `firefox.js`, from inside the browser's namespace.

import { execFile } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

import puppeteer from "puppeteer-core";

const run = promisify(execFile);
const FIREFOX = process.env.TURNCAST_FIREFOX ?? "/usr/bin/firefox-esr";

const PREFERENCES = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
  "media.peerconnection.ice.loopback": true,
  "media.autoplay.default": 0,
  // What it asks its maker for by itself.
  "app.normandy.enabled": false,
  "app.update.enabled": false,
  "browser.safebrowsing.malware.enabled": false,
  "browser.safebrowsing.phishing.enabled": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
};

const pages = [];
const errors = [];
const requests = [];
let folder;
let browser;

const actions = {
  async start({ authority }) {
    folder = await mkdtemp(path.join(tmpdir(), "turncast-firefox-"));
    if (authority) await trust(authority);
    browser = await puppeteer.launch({
      browser: "firefox",
      executablePath: FIREFOX,
      userDataDir: folder,
      extraPrefsFirefox: PREFERENCES,
      env: { ...process.env, HOME: folder },
    });
  },

  async open({ url }) {
    const page = await browser.newPage();
    page.on("console", (message) => {
      if (message.type() === "error") errors.push(message.text());
    });
    page.on("pageerror", (error) => errors.push(error.stack ?? String(error)));
    page.on("request", (request) => requests.push(request.url()));
    await page.setViewport({ width: 1280, height: 800 });
    await page.goto(url);
    return pages.push(page) - 1;
  },

  evaluate({ page, script, argument }) {
    return pages[page].evaluate(`(${script})(${JSON.stringify(argument ?? null)})`);
  },

  async wait({ page, script, argument, timeout, polling }) {
    const expression = `(${script})(${JSON.stringify(argument ?? null)})`;
    await pages[page].waitForFunction(expression, { timeout, polling });
  },

  click({ page, selector }) {
    return pages[page].click(selector);
  },

  async screenshot({ page, path: file }) {
    await pages[page].screenshot({ path: file });
  },

  closePage({ page }) {
    return pages[page].close();
  },

  async close() {
    await end();
    await rm(folder, { recursive: true, force: true });
    return { errors, requests };
  },
};

/** Ends it and its processes at once: by itself it takes seconds where no network answers. */
async function end() {
  const child = browser.process();
  const ended = once(child, "exit");
  await browser.disconnect();
  process.kill(-child.pid, "SIGKILL");
  await ended;
}

/** The authority goes into the profile, as a person would put it there. */
async function trust(authority) {
  await run("certutil", ["-d", `sql:${folder}`, "-N", "--empty-password"]);
  await run("certutil", ["-d", `sql:${folder}`, "-A", "-n", "authority", "-t", "C,,",
    "-i", authority]);
}

process.on("message", async ({ id, what, given }) => {
  let answer;
  try {
    answer = { id, value: await actions[what](given) };
  } catch (error) {
    answer = { id, fault: error.stack ?? String(error) };
  }
  process.send(answer, () => {
    if (what === "close") process.disconnect();
  });
});
// Nobody is left to ask for anything.
process.on("disconnect", async () => {
  if (browser?.connected) await end();
  process.exit();
});
