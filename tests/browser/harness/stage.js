// What most tests begin with: a daemon, a browser that broadcasts, and another that watches.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import path from "node:path";

import { startBrowser } from "./browser.js";
import { closing } from "./cleanup.js";
import { startDaemon } from "./daemon.js";
import { startFirefox } from "./firefox.js";
import { Cable } from "./proxy.js";

export const HERE = ["localhost", "127.0.0.1"];

/** All three end with the test, and end well. */
export async function stage(t, tables) {
  return {
    daemon: await daemonFor(t, { tables }),
    studio: await browserFor(t),
    sofa: await browserFor(t),
  };
}

export async function daemonFor(t, options) {
  return closing(t, await startDaemon(options), (daemon) => daemon.stop());
}

export async function browserFor(t, options, hosts = HERE) {
  return closing(t, await startBrowser(options), (browser) => browser.close(hosts));
}

export async function firefoxFor(t, options, hosts = HERE) {
  return closing(t, await startFirefox(options), (firefox) => firefox.close(hosts));
}

/** A name of the server, and a file for `/etc/hosts` with it, for browsers in namespaces. */
export async function namesFor(t, name, ...addresses) {
  const folder = await mkdtemp(path.join(tmpdir(), "turncast-names-"));
  closing(t, folder, (each) => rm(each, { recursive: true, force: true }));
  const hosts = path.join(folder, "hosts");
  // Firefox asks for this computer's own name before it starts, and waits for an answer.
  const own = `127.0.0.1 localhost ${hostname()}`;
  // Chromium puts a point behind the name of a relay that it reaches over UDP.
  const lines = [own, ...addresses.map((address) => `${address} ${name} ${name}.`), ""];
  await writeFile(hosts, lines.join("\n"));
  return { name, hosts };
}

/** A cable to the daemon that can be pulled. */
export async function cableFor(t, daemon) {
  return closing(t, await Cable.to(daemon.address), (cable) => cable.close());
}
