// Behind network address translators, in networks of namespaces: where the relay is needed, and
// where the server itself has no public address.

import assert from "node:assert/strict";
import { test } from "node:test";

import { closing } from "./harness/cleanup.js";
import { KEY } from "./harness/daemon.js";
import { mayMakeNetworks, Network, SERVER, SERVER_INSIDE } from "./harness/network.js";
import { becomes, goLive, leaveNothing, moves, rowsBecome, seesAndHears, selectedPair, watch }
  from "./harness/pages.js";
import { browserFor, daemonFor } from "./harness/stage.js";

const ORIGIN = `http://${SERVER}:8080`;
const skip = mayMakeNetworks() ? false : "network namespaces need root";

function tables(address, relayed, scheme) {
  return {
    "": `public_host = "${SERVER}"`,
    web: `listen = ["${address}:8080"]`,
    // The browsers are told that this origin is secure.
    tls: 'mode = "off"',
    turn: [
      `listen = ["${scheme}${address}:3478"]`,
      `relay_addresses = ["${relayed}"]`,
      // A range for documentation, which nobody could be relayed to otherwise.
      'allow_peers = ["203.0.113.0/24"]',
    ].join("\n"),
    broadcast: `publish = "key"\nkeys = [{ name = "studio", key = "${KEY}" }]`,
  };
}

async function stage(t, { serverBehindNat = false, scheme = "udp://" } = {}) {
  const network = closing(t, await Network.build({ serverBehindNat }), (each) => each.remove());
  const inside = serverBehindNat ? SERVER_INSIDE : SERVER;
  const daemon = await daemonFor(t, {
    namespace: network.server,
    tables: tables(inside, serverBehindNat ? `${SERVER}/${SERVER_INSIDE}` : SERVER, scheme),
  });
  const open = (which) => browserFor(t, {
    namespace: network.client(which),
    secureOrigin: ORIGIN,
  }, [SERVER]);
  return { network, daemon, studio: await open("a"), sofa: await open("b") };
}

/** Whichever side's relay the browsers have chosen, pictures went through it. */
async function hasRelayed(daemon) {
  const metrics = await daemon.metrics();
  const bytes = ["to_peer", "to_client"]
    .map((direction) => metrics.get(`turncast_relayed_bytes_total{direction="${direction}"}`));
  assert.ok(Math.max(...bytes) > 10_000, `relayed ${bytes}`);
}

test("two symmetric NATs are crossed through the relay", { skip }, async (t) => {
  const { network, daemon, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, ORIGIN, { room: "far", key: KEY });
  assert.equal(broadcaster.url(), `${ORIGIN}/broadcast`, "the key is not in the address bar");
  assert.ok(await broadcaster.isHidden("#local-only"));
  const watcher = await watch(sofa, ORIGIN, "far");
  await seesAndHears(watcher);
  const pair = await selectedPair(watcher);
  assert.ok(pair.local === "relay" || pair.remote === "relay", JSON.stringify(pair));
  assert.equal(pair.path, "udp");
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · UDP"]);
  await hasRelayed(daemon);
  assert.equal(await daemon.metric('turncast_link_reports_total{path="udp"}'), 1);
  await leaveNothing(daemon, watcher, broadcaster);
  for (const which of ["a", "b"]) {
    assert.equal(await network.strayPackets(which), 0, `client ${which} spoke to another host`);
  }
});

test("a break of the network is healed without a new link", { skip }, async (t) => {
  // Over TCP it would not even be a break.
  const { network, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, ORIGIN, { room: "tunnel", key: KEY });
  const watcher = await watch(sofa, ORIGIN, "tunnel");
  await seesAndHears(watcher);
  const link = await watcher.evaluate(() => turncast.links[0].id);
  await network.cutUdp("b", true);
  await becomes(watcher, "reconnecting");
  await rowsBecome(broadcaster, ["Viewer 1: Reconnecting"]);
  await network.cutUdp("b", false);
  await becomes(watcher, "live");
  await moves(watcher);
  assert.equal(await watcher.evaluate(() => turncast.links[0].id), link);
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · UDP"]);
});

test("behind a router that drops UDP the relay is reached over TCP", { skip }, async (t) => {
  const { network, daemon, studio, sofa } = await stage(t, { scheme: "" });
  await network.cutUdp("b", true);
  const broadcaster = await goLive(studio, ORIGIN, { room: "office", key: KEY });
  const watcher = await watch(sofa, ORIGIN, "office");
  await seesAndHears(watcher);
  // The other side is still free to use UDP; what it reports is its own way.
  assert.equal((await selectedPair(watcher)).path, "tcp");
  await hasRelayed(daemon);
  await leaveNothing(daemon, watcher, broadcaster);
});

test("without the relay two symmetric NATs are not crossed, and the page says so",
  { skip }, async (t) => {
    const { daemon, studio, sofa } = await stage(t);
    // The same server still tells each client its outer address; only the relay is taken away.
    const prepare = (page) => page.addInitScript(() => {
      const stunOnly = (given) => ({
        ...given,
        iceServers: given.iceServers.map(({ urls }) => ({
          urls: urls.map((url) => url.replace(/^turn:/, "stun:").replace(/\?.*/, "")),
        })),
      });
      const Original = window.RTCPeerConnection;
      window.RTCPeerConnection = class extends Original {
        constructor(given) {
          super(stunOnly(given));
        }

        setConfiguration(given) {
          super.setConfiguration(stunOnly(given));
        }
      };
    });
    const broadcaster = await goLive(studio, ORIGIN, { room: "apart", key: KEY, prepare });
    const watcher = await watch(sofa, ORIGIN, "apart", { prepare });
    await becomes(watcher, "failed", 90_000);
    assert.match(await watcher.textContent("#cover-text"), /Try again/);
    await rowsBecome(broadcaster, ["Viewer 1: No connection"]);
    const sdp = await watcher.evaluate(() => turncast.pcs[0].localDescription.sdp);
    assert.match(sdp, /typ srflx/, "the outer address was known");
    assert.equal(await daemon.metric("turncast_allocations"), 0);
  });

test("a server behind a 1:1 NAT relays between two viewers of its public address",
  { skip }, async (t) => {
    const { network, daemon, studio, sofa } = await stage(t, { serverBehindNat: true });
    const broadcaster = await goLive(studio, ORIGIN, { room: "cloud", key: KEY, relay: true });
    const watcher = await watch(sofa, ORIGIN, "cloud", { relay: true });
    await seesAndHears(watcher);
    assert.deepEqual(await selectedPair(watcher), { local: "relay", remote: "relay", path: "udp" });
    const relayed = await watcher.evaluate(async () => {
      const stats = await turncast.pcs[0].getStats();
      return [...stats.values()].filter((entry) => entry.candidateType === "relay")
        .map((entry) => entry.address);
    });
    assert.ok(relayed.length > 0 && relayed.every((address) => address === SERVER), `${relayed}`);
    await hasRelayed(daemon);
    await leaveNothing(daemon, watcher, broadcaster);
    for (const which of ["a", "b"]) {
      assert.equal(await network.strayPackets(which), 0, `client ${which} spoke to another host`);
    }
  });
