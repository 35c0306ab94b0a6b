// Chromium, as the distribution ships it: started with a fake camera that moves and beeps, and
// watched. Whatever a page logs as an error, and every host that it asks for, is kept.

import { execFile } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

import { execIn, SERVER } from "./network.js";

const run = promisify(execFile);
export const OUT = fileURLToPath(new URL("../out/", import.meta.url));
const CHROMIUM = process.env.TURNCAST_CHROMIUM ?? "/usr/bin/chromium";

/** Chromium would ask its maker about the fields of forms, in the name of the page. */
const NOBODY = "127.0.0.1:9";

const FLAGS = [
  "--no-sandbox",
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
  "--auto-accept-this-tab-capture",
  "--disable-dev-shm-usage",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  `--autofill-server-url=http://${NOBODY}`,
  `--host-resolver-rules=MAP * ~NOTFOUND${
    ["localhost", "127.0.0.1", SERVER].map((host) => `, EXCLUDE ${host}`).join("")}`,
];

/**
 * Starts a browser.
 * @param {object} [options]
 * @param {string} [options.namespace] where it runs
 * @param {string} [options.secureOrigin] a plain origin that counts as secure
 * @param {string} [options.trusts] the file of a certificate that it trusts
 */
export async function startBrowser({ namespace, secureOrigin, trusts } = {}) {
  const folder = await mkdtemp(path.join(tmpdir(), "turncast-chromium-"));
  const env = trusts ? await homeThatTrusts(folder, trusts) : process.env;
  const netLog = path.join(folder, "net.json");
  const flags = [...FLAGS, `--log-net-log=${netLog}`];
  if (secureOrigin) flags.push(`--unsafely-treat-insecure-origin-as-secure=${secureOrigin}`);
  const executablePath = namespace ? await wrapper(folder, namespace) : CHROMIUM;
  const browser = await chromium.launch({ executablePath, args: flags, env });
  return new Browser(browser, folder, netLog);
}

class Browser {
  #browser;
  #folder;
  #netLog;
  #allowed = [];

  constructor(browser, folder, netLog) {
    this.#browser = browser;
    this.#folder = folder;
    this.#netLog = netLog;
    /** What pages logged as errors, and what they threw. */
    this.errors = [];
    /** Every address that a page asked for. */
    this.requests = [];
  }

  /** Opens a page in a context of its own. */
  async open(url, { context: options, prepare } = {}) {
    const context = await this.#browser.newContext({
      viewport: { width: 1280, height: 800 },
      reducedMotion: "reduce",
      ...options,
    });
    const page = await context.newPage();
    this.watch(page);
    if (prepare) await prepare(page);
    await page.goto(url);
    return page;
  }

  /** Records what a page says and asks for. */
  watch(page) {
    page.on("console", (message) => {
      if (message.type() === "error") this.errors.push(message.text());
    });
    page.on("pageerror", (error) => this.errors.push(error.stack ?? String(error)));
    page.on("request", (request) => this.requests.push(request.url()));
    page.on("websocket", (socket) => this.requests.push(socket.url()));
  }

  /** Errors that match are the subject of the test, not a fault. */
  allow(pattern) {
    this.#allowed.push(pattern);
  }

  /** Closes it; fails for errors of pages and for hosts that are not `hosts`. */
  async close(hosts) {
    await this.#browser.close();
    const seen = await netLogHosts(this.#netLog, hosts);
    await rm(this.#folder, { recursive: true, force: true });
    const bad = this.errors.filter((text) => !this.#allowed.some((each) => each.test(text)));
    if (bad.length) throw new Error(`a page logged errors:\n${bad.join("\n")}`);
    const asked = this.requests.filter((url) => /^(https?|wss?):/.test(url))
      .map((url) => new URL(url).hostname);
    const foreign = [...new Set([...asked, ...seen])].filter((host) => !hosts.includes(host));
    if (foreign.length) throw new Error(`other hosts were asked for: ${foreign.join(", ")}`);
  }
}

/** The environment with a home whose store of certificates has this one more. */
async function homeThatTrusts(folder, certificate) {
  const store = path.join(folder, ".pki/nssdb");
  await mkdir(store, { recursive: true });
  const certutil = (...args) => run("certutil", ["-d", `sql:${store}`, ...args]);
  await certutil("-N", "--empty-password");
  await certutil("-A", "-n", "test", "-t", "C,,", "-i", certificate);
  return { ...process.env, HOME: folder };
}

/** A program that starts Chromium inside a namespace; the driver's pipe passes through. */
async function wrapper(folder, namespace) {
  const file = path.join(folder, "chromium");
  const command = execIn(namespace, [CHROMIUM]).join(" ");
  await writeFile(file, `#!/bin/sh\nexec ${command} "$@"\n`);
  await chmod(file, 0o755);
  return file;
}

/**
 * Hosts that pages of `ours` made the browser look up or ask. What Chromium wants for itself
 * carries no page's key; the rules of its resolver let none of that out.
 */
async function netLogHosts(file, ours) {
  const text = await readFile(file, "utf8");
  // A browser that was closed leaves the list of events open.
  const log = JSON.parse(/\]\s*\}\s*$/.test(text) ? text : `${text.trimEnd().replace(/,$/, "")}]}`);
  const kinds = ["HOST_RESOLVER_MANAGER_REQUEST", "URL_REQUEST_START_JOB"];
  const numbers = kinds.map((kind) => log.constants.logEventTypes[kind]);
  const hosts = new Set();
  for (const { type, params = {} } of log.events) {
    const key = `${params.network_anonymization_key} ${params.initiator}`;
    const address = params.url ?? params.host;
    if (!numbers.includes(type) || !address || !ours.some((host) => key.includes(host))) continue;
    if (/^(data|blob|about):/.test(address)) continue;
    const url = new URL(/^\w+:\/\//.test(address) ? address : `http://${address}`);
    // The names of host candidates are asked on the own link only, by multicast.
    if (!url.hostname.endsWith(".local") && url.host !== NOBODY) hosts.add(url.hostname);
  }
  return [...hosts];
}

/** Where pictures of pages go; git does not see them. */
export async function pictureFile(name) {
  await mkdir(OUT, { recursive: true });
  return path.join(OUT, `${name}.png`);
}
