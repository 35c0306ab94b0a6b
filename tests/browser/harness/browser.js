// Chromium, as the distribution ships it: started with a fake camera that moves and beeps, and
// watched. Whatever a page logs as an error, and every host that it asks for, is kept.

import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { execIn, SERVER } from "./network.js";

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
];

/**
 * Starts a browser.
 * @param {object} [options]
 * @param {string} [options.namespace] where it runs
 * @param {string} [options.secureOrigin] a plain origin that counts as secure
 * @param {string} [options.home] whose store of certificates it trusts
 * @param {object} [options.names] of the server (see `namesFor`)
 * @param {string[]} [options.more] flags
 */
export async function startBrowser({ namespace, secureOrigin, home, names, more = [] } = {}) {
  const folder = await mkdtemp(path.join(tmpdir(), "turncast-chromium-"));
  const netLog = path.join(folder, "net.json");
  const flags = [...FLAGS, namesKnown(names?.name), `--log-net-log=${netLog}`, ...more];
  if (secureOrigin) flags.push(`--unsafely-treat-insecure-origin-as-secure=${secureOrigin}`);
  const executablePath = namespace ? await wrapper(folder, namespace, names) : CHROMIUM;
  // Without one of the test's own it would trust whatever the person who runs this does.
  const env = { ...process.env, HOME: home ?? folder };
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

  /** Opens a page in a context of its own, or in that of another page. */
  async open(url, { context: options, beside, prepare } = {}) {
    const context = beside?.context() ?? await this.#browser.newContext({
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

/** The flag by which it looks for the hosts of the tests, and for no other. */
function namesKnown(name) {
  const own = ["localhost", "127.0.0.1", SERVER, ...name ? [name, `${name}.`] : []];
  return `--host-resolver-rules=MAP * ~NOTFOUND${own.map((host) => `, EXCLUDE ${host}`).join("")}`;
}

/** A program that starts Chromium inside a namespace; the driver's pipe passes through. */
async function wrapper(folder, namespace, names) {
  const file = path.join(folder, "chromium");
  const command = execIn(namespace, [CHROMIUM], names?.hosts).map((word) => `'${word}'`).join(" ");
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
