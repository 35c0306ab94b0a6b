// What most tests begin with: a daemon, a browser that broadcasts, and another that watches.

import { startBrowser } from "./browser.js";
import { closing } from "./cleanup.js";
import { startDaemon } from "./daemon.js";
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

/** A cable to the daemon that can be pulled. */
export async function cableFor(t, daemon) {
  return closing(t, await Cable.to(daemon.address), (cable) => cable.close());
}
