// Page, signaling and media over one port with TLS: what is left where a network lets out nothing
// but HTTPS.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { closing } from "./harness/cleanup.js";
import { goLive, leaveNothing, rowsBecome, seesAndHears, selectedPair, watch }
  from "./harness/pages.js";
import { browserFor, daemonFor } from "./harness/stage.js";

const run = promisify(execFile);

/** A certificate for this computer, good for a day. */
async function certificateFor(t) {
  const folder = closing(t, await mkdtemp(path.join(tmpdir(), "turncast-tls-")),
    (each) => rm(each, { recursive: true, force: true }));
  const [certificate, key] = ["cert.pem", "key.pem"].map((name) => path.join(folder, name));
  await run("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
    "-nodes", "-days", "1", "-subj", "/CN=turncast test", "-keyout", key, "-out", certificate,
    "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
  return { certificate, key };
}

test("page, socket and media share one port over TLS", async (t) => {
  const { certificate, key } = await certificateFor(t);
  const daemon = await daemonFor(t, {
    tables: {
      tls: `certificate = ${JSON.stringify(certificate)}\nkey = ${JSON.stringify(key)}`,
      // Nobody is told of UDP, and the way over TCP is the port of the pages.
      public_ports: "udp = 0",
    },
  });
  assert.match(daemon.web, /^https:/);
  const studio = await browserFor(t, { trusts: certificate });
  const sofa = await browserFor(t, { trusts: certificate });
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
