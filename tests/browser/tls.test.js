// TURN over TLS, with a certificate that the browser checks as it checks any other.

import assert from "node:assert/strict";
import { test } from "node:test";

import { authorityFor } from "./harness/authority.js";
import { goLive, leaveNothing, rowsBecome, seesAndHears, selectedPair, watch }
  from "./harness/pages.js";
import { browserFor, daemonFor } from "./harness/stage.js";

const RELAY = 'listen = ["tls://127.0.0.1:0"]';

test("where only TLS passes, both sides reach the relay over it", async (t) => {
  const authority = await authorityFor(t);
  const daemon = await daemonFor(t, {
    tables: { turn: RELAY, tls: await authority.certificate("IP:127.0.0.1") },
  });
  assert.match(daemon.web, /^https:/);
  const home = await authority.home();
  const [studio, sofa] = [await browserFor(t, { home }), await browserFor(t, { home })];
  const broadcaster = await goLive(studio, daemon.web, { room: "sealed", relay: true });
  const watcher = await watch(sofa, daemon.web, "sealed", { relay: true });
  await seesAndHears(watcher);
  const pair = { local: "relay", remote: "relay", path: "tls" };
  assert.deepEqual(await selectedPair(watcher), pair);
  assert.deepEqual(await selectedPair(broadcaster), pair);
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · TLS"]);
  const metrics = await daemon.metrics();
  assert.ok(metrics.get("turncast_turn_connections") >= 2);
  assert.ok(metrics.get('turncast_relayed_bytes_total{direction="to_client"}') > 10_000);
  assert.equal(metrics.get('turncast_link_reports_total{path="tls"}'), 1);
  await leaveNothing(daemon, watcher, broadcaster);
  await daemon.metricBecomes("turncast_turn_connections", 0, 10_000);
});

/** What a browser gathers from a relay over TLS: its candidates' protocols, and error codes. */
function gather(page, daemon) {
  const server = {
    urls: `turns:${daemon.turn.replace("tls://", "")}?transport=tcp`,
    username: "alice",
    credential: "password-of-alice-1",
  };
  return page.evaluate(async (iceServer) => {
    const pc = new RTCPeerConnection({ iceServers: [iceServer], iceTransportPolicy: "relay" });
    const found = { protocols: [], errors: [] };
    pc.onicecandidateerror = ({ errorCode }) => found.errors.push(errorCode);
    const done = new Promise((resolve) => {
      pc.onicecandidate = ({ candidate }) => {
        if (candidate?.candidate) found.protocols.push(candidate.relayProtocol);
        if (!candidate) resolve();
      };
    });
    pc.createDataChannel("any");
    await pc.setLocalDescription();
    await done;
    pc.close();
    return found;
  }, server);
}

test("a certificate that nobody trusts, or of another name, is no way to the relay", async (t) => {
  const authority = await authorityFor(t);
  const relay = async (name) => daemonFor(t, {
    tables: {
      turn: `${RELAY}\nusers = [{ name = "alice", password = "password-of-alice-1" }]`,
      tls: await authority.certificate(name),
    },
  });
  const [good, misnamed] = [await relay("IP:127.0.0.1"), await relay("IP:127.0.0.2")];
  const created = "turncast_allocations_created_total";
  const [goodBefore, misnamedBefore] =
    [(await good.isSettled()).get(created), (await misnamed.isSettled()).get(created)];
  // The pages are of a third one, without TLS: nothing but the relay's certificate is at issue.
  const pages = await daemonFor(t);
  const stranger = await (await browserFor(t)).open(`${pages.web}/`);
  const home = await authority.home();
  const trusting = await (await browserFor(t, { home })).open(`${pages.web}/`);

  assert.deepEqual(await gather(stranger, good), { protocols: [], errors: [701] });
  assert.deepEqual(await gather(trusting, misnamed), { protocols: [], errors: [701] });
  assert.equal(await good.metric(created), goodBefore);
  assert.equal(await misnamed.metric(created), misnamedBefore);
  // The same relay, and the same question, of who trusts it.
  assert.deepEqual(await gather(trusting, good), { protocols: ["tls"], errors: [] });
  assert.equal(await good.metric(created), goodBefore + 1);
});
