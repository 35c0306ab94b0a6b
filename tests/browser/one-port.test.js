// Page, signaling and media over one port with TLS: what is left where a network lets out nothing
// but HTTPS.

import assert from "node:assert/strict";
import { test } from "node:test";

import { authorityFor } from "./harness/authority.js";
import { goLive, leaveNothing, rowsBecome, seesAndHears, selectedPair, watch }
  from "./harness/pages.js";
import { browserFor, daemonFor } from "./harness/stage.js";

test("page, socket and media share one port over TLS", async (t) => {
  const authority = await authorityFor(t);
  const daemon = await daemonFor(t, {
    tables: {
      tls: await authority.certificate("IP:127.0.0.1", "DNS:localhost"),
      // Nobody is told of UDP, and the way over TCP is the port of the pages.
      public_ports: "udp = 0",
    },
  });
  assert.match(daemon.web, /^https:/);
  const home = await authority.home();
  const [studio, sofa] = [await browserFor(t, { home }), await browserFor(t, { home })];
  const broadcaster = await goLive(studio, daemon.web, { room: "one-port", relay: true });
  const watcher = await watch(sofa, daemon.web, "one-port", { relay: true });
  await seesAndHears(watcher);
  const pair = { local: "relay", remote: "relay", path: "tls" };
  assert.deepEqual(await selectedPair(watcher), pair);
  assert.deepEqual(await selectedPair(broadcaster), pair);
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · TLS"]);
  // The page came over HTTP/2; the socket found its own way.
  const protocols = await watcher.evaluate(() => [
    ...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource"),
  ].map((entry) => entry.nextHopProtocol));
  assert.ok(protocols.length > 2);
  assert.deepEqual([...new Set(protocols)], ["h2"]);
  assert.ok(await daemon.metric('turncast_http_responses_total{status="1xx"}') >= 2);
  assert.ok(await daemon.metric("turncast_turn_connections") >= 2);
  await leaveNothing(daemon, watcher, broadcaster);
});
