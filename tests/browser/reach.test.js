// The strictest networks: whatever passes only TCP to port 443, or no UDP, is enough for pages,
// signaling and media, with a server whose configuration has three lines. Certificates are checked
// as everywhere; only the authority is a test's own.

import assert from "node:assert/strict";
import { test } from "node:test";

import { authorityFor, homeThatTrusts } from "./harness/authority.js";
import { closing } from "./harness/cleanup.js";
import { mayMakeNetworks, Network, SERVER } from "./harness/network.js";
import { goLive, leaveNothing, rowsBecome, seesAndHears, selectedPair, watch }
  from "./harness/pages.js";
import { pebbleFor } from "./harness/pebble.js";
import { browserFor, daemonFor, firefoxFor, namesFor } from "./harness/stage.js";

const NAME = "cast.example.org";
const ISSUE_MS = 20_000;
const skip = mayMakeNetworks() ? false : "network namespaces need root";

/**
 * Two clients behind symmetric NATs and a server.
 * @param {string} [host] the server's name, or its bare address
 */
async function stage(t, host = SERVER) {
  const network = closing(t, await Network.build(), (each) => each.remove());
  const authority = await authorityFor(t);
  const certificate = await authority.certificate(`${host === SERVER ? "IP" : "DNS"}:${host}`);
  const daemon = await daemonFor(t, {
    namespace: network.server,
    whole: `public_host = "${host}"\n[tls]\n${certificate}\n`,
  });
  const names = await namesFor(t, NAME, SERVER);
  const home = await authority.home();
  const browser = { names, home, authority: authority.file };
  const chromium = (which) =>
    browserFor(t, { namespace: network.client(which), ...browser }, [host]);
  const firefox = (which) =>
    firefoxFor(t, { namespace: network.client(which), ...browser }, [host]);
  return { network, daemon, chromium, firefox, origin: `https://${host}` };
}

/** The key of the link that the operator gives to broadcasters. */
async function keyOf(daemon) {
  const link = new URL(await daemon.invite());
  return new URLSearchParams(link.hash.slice(1)).get("key");
}

/** A broadcaster behind client a's symmetric NAT. */
async function broadcast({ daemon, origin }, browser, room) {
  return goLive(browser, origin, { key: await keyOf(daemon), room });
}

/** Everything that a watcher got came through port 443 of the server. */
async function cameOverHttps(network, part, page) {
  const { https, refused } = await network.strictCounters(part);
  const received = await page.evaluate(async () => (await window.turncast.measure())[0].bytes);
  assert.ok(received > 10_000 && https.bytes > received, `${https.bytes} for ${received}`);
  // The other ways were tried, so it is the firewall that closed them.
  assert.ok(refused.packets > 0, "nothing was refused");
}

for (const [engine, host, path] of [
  ["chromium", SERVER, "tls"],
  ["firefox", NAME, "tls"],
  // Firefox knows no TURN over TLS to an address without a name.
  ["firefox", SERVER, "tcp"],
]) {
  test(`where only TCP 443 passes, ${engine} watches over ${path} from ${host}`,
    { skip }, async (t) => {
      const all = await stage(t, host);
      const { network, daemon, origin } = all;
      await network.onlyHttps("b");
      const broadcaster = await broadcast(all, await all.chromium("a"), "hotel");
      const watcher = await watch(await all[engine]("b"), origin, "hotel");
      await seesAndHears(watcher);
      const pair = { local: "relay", remote: "relay", path };
      assert.deepEqual(await selectedPair(watcher), pair);
      await cameOverHttps(network, "rb", watcher);
      assert.equal((await selectedPair(broadcaster)).path, "udp");
      await rowsBecome(broadcaster, [`Viewer 1: Relayed · ${path.toUpperCase()}`]);
      await leaveNothing(daemon, watcher, broadcaster);
    });
}

test("where no UDP passes, a broadcast is watched over TLS", { skip }, async (t) => {
  const all = await stage(t);
  const { network, daemon, chromium, origin } = all;
  await network.cutUdp("b", true);
  const broadcaster = await broadcast(all, await chromium("a"), "office");
  const watcher = await watch(await chromium("b"), origin, "office");
  await seesAndHears(watcher);
  const pair = { local: "relay", remote: "relay", path: "tls" };
  assert.deepEqual(await selectedPair(watcher), pair);
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · TLS"]);
  await leaveNothing(daemon, watcher, broadcaster);
});

test("a server that only TCP 443 reaches gets its certificate and relays both sides",
  { skip }, async (t) => {
    const network = closing(t, await Network.build(), (each) => each.remove());
    await network.serverOnlyHttps();
    const pebble = await pebbleFor(t, network, await authorityFor(t));
    const daemon = await daemonFor(t, {
      namespace: network.server,
      whole: `public_host = "${NAME}"\n[acme]\naccept_terms = true\n`,
      environment: pebble.environment,
    });
    await daemon.says("the authority has issued a certificate", ISSUE_MS);
    const browser = {
      names: await namesFor(t, NAME, SERVER), home: await homeThatTrusts(t, pebble.root),
    };
    const open = (which) =>
      browserFor(t, { namespace: network.client(which), ...browser }, [NAME]);
    const origin = `https://${NAME}`;
    const broadcaster = await broadcast({ daemon, origin }, await open("a"), "closed");
    const watcher = await watch(await open("b"), origin, "closed");
    await seesAndHears(watcher);
    const pair = { local: "relay", remote: "relay", path: "tls" };
    assert.deepEqual(await selectedPair(watcher), pair);
    assert.deepEqual(await selectedPair(broadcaster), pair);
    await rowsBecome(broadcaster, ["Viewer 1: Relayed · TLS"]);
    await cameOverHttps(network, "srv", watcher);
    await leaveNothing(daemon, watcher, broadcaster);
  });
