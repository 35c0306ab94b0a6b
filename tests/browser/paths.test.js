// The ways that media takes on one host: directly, and through the relay.

import assert from "node:assert/strict";
import { test } from "node:test";

import { becomes, goLive, leaveNothing, rowsBecome, seesAndHears, selectedPair, watch, watchLink }
  from "./harness/pages.js";
import { stage } from "./harness/stage.js";

test("a broadcast is watched directly", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const before = await daemon.isSettled();
  // As the README says: the start page, its button, a name of the server's own choice.
  const broadcaster = await studio.open(`${daemon.web.replace("127.0.0.1", "localhost")}/`);
  await broadcaster.click("#broadcast");
  await becomes(broadcaster, "ready");
  await broadcaster.click("#go");
  await becomes(broadcaster, "live");
  const link = await watchLink(broadcaster);
  assert.match(link, /\/watch\/[a-z2-9]{10}$/);
  assert.ok(await broadcaster.isVisible("#local-only"), "localhost is nobody else's address");

  const watcher = await sofa.open(link);
  await seesAndHears(watcher);
  assert.equal((await selectedPair(watcher)).path, "direct");
  assert.equal((await selectedPair(broadcaster)).path, "direct");
  await rowsBecome(broadcaster, ["Viewer 1: Direct"]);
  const metrics = await daemon.metrics();
  const relayed = 'turncast_relayed_bytes_total{direction="to_peer"}';
  assert.equal(metrics.get(relayed), before.get(relayed));
  assert.equal(metrics.get('turncast_link_reports_total{path="direct"}'), 1);
  assert.equal(metrics.get("turncast_watchers"), 1);
  await leaveNothing(daemon, watcher, broadcaster);
});

test("a broadcast is watched through the relay from both sides", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, daemon.web, { room: "relayed", relay: true });
  const watcher = await watch(sofa, daemon.web, "relayed", { relay: true });
  await seesAndHears(watcher);
  assert.deepEqual(await selectedPair(watcher), { local: "relay", remote: "relay", path: "udp" });
  assert.deepEqual(await selectedPair(broadcaster), {
    local: "relay", remote: "relay", path: "udp",
  });
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · UDP"]);
  assert.match(await broadcaster.textContent("#live .address-note"), /do not see/);
  const metrics = await daemon.metrics();
  assert.ok(metrics.get('turncast_relayed_bytes_total{direction="to_peer"}') > 10_000);
  assert.ok(metrics.get('turncast_relayed_bytes_total{direction="to_client"}') > 10_000);
  assert.ok(metrics.get("turncast_allocations") >= 2);
  assert.equal(metrics.get('turncast_link_reports_total{path="udp"}'), 1);
  await leaveNothing(daemon, watcher, broadcaster);
});

test("where UDP is blocked, both sides reach the relay over TCP", async (t) => {
  const { daemon, studio, sofa } = await stage(t, { turn: 'listen = ["tcp://127.0.0.1:0"]' });
  const broadcaster = await goLive(studio, daemon.web, { room: "streamed", relay: true });
  const watcher = await watch(sofa, daemon.web, "streamed", { relay: true });
  await seesAndHears(watcher);
  const pair = { local: "relay", remote: "relay", path: "tcp" };
  assert.deepEqual(await selectedPair(watcher), pair);
  assert.deepEqual(await selectedPair(broadcaster), pair);
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · TCP"]);
  const metrics = await daemon.metrics();
  assert.ok(metrics.get("turncast_turn_connections") >= 2);
  assert.equal(metrics.get('turncast_link_reports_total{path="tcp"}'), 1);
  assert.equal(metrics.get('turncast_limit_hits_total{limit="write_queue"}'), 0);
  await leaveNothing(daemon, watcher, broadcaster);
  await daemon.metricBecomes("turncast_turn_connections", 0, 10_000);
});

test("with ice_policy relay nobody learns an address", async (t) => {
  const { daemon, studio, sofa } = await stage(t, { broadcast: 'ice_policy = "relay"' });
  const broadcaster = await goLive(studio, daemon.web, { room: "private" });
  const watcher = await watch(sofa, daemon.web, "private");
  await seesAndHears(watcher);
  assert.deepEqual(await selectedPair(watcher), { local: "relay", remote: "relay", path: "udp" });
  const described = await watcher.evaluate(() => turncast.pcs[0].remoteDescription.sdp);
  const candidates = described.split("\r\n").filter((line) => line.startsWith("a=candidate"));
  assert.ok(candidates.every((line) => line.includes("typ relay")), candidates.join("\n"));
  assert.match(await broadcaster.textContent("#live .address-note"), /do not see/);
  await leaveNothing(daemon, watcher, broadcaster);
});
