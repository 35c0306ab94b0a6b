// A full room whose viewers all use the relay, with all that browsers allocate then: for each
// connection one allocation for every URL, over each family of addresses.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as after } from "node:timers/promises";

import { authorityFor } from "./harness/authority.js";
import { closing } from "./harness/cleanup.js";
import { KEY } from "./harness/daemon.js";
import { mayMakeNetworks, Network, SERVER, SERVER_V6 } from "./harness/network.js";
import { becomes, goElsewhere, goLive, holds, leaveNothing, noQuotaHit, watch }
  from "./harness/pages.js";
import { browserFor, daemonFor, namesFor } from "./harness/stage.js";

const NAME = "cast.example.org";
const VIEWERS = 20;
const AT_ONCE = 5;
const URLS = [
  `turn:${NAME}:3478?transport=udp`,
  `turns:${NAME}:443?transport=tcp`,
];
const EVERYBODY_MS = 45_000;
const skip = mayMakeNetworks() ? false : "network namespaces need root";

/** Twenty encoders of large pictures would test this computer. */
function small(page) {
  return page.addInitScript(() => {
    const { mediaDevices } = navigator;
    const open = mediaDevices.getUserMedia.bind(mediaDevices);
    mediaDevices.getUserMedia = (wanted) => open({
      ...wanted,
      ...wanted.video && { video: { width: 160, height: 120, frameRate: 10 } },
    });
  });
}

/** The URLs by which the connections of a page have got relayed addresses. */
function urlsOf(page) {
  return page.evaluate(async () => {
    const reports = await Promise.all(window.turncast.pcs.map((pc) => pc.getStats()));
    const relayed = reports.flatMap((report) => [...report.values()]).filter((entry) =>
      entry.type === "local-candidate" && entry.candidateType === "relay");
    return relayed.map(({ url }) => url);
  });
}

/** How many allocations were made for clients that came over IPv4, and over IPv6. */
function families({ log }) {
  const clients = log.filter(({ message }) => message === "allocation created")
    .map(({ client }) => client);
  const v6 = clients.filter((client) => client.includes(":")).length;
  return { v4: clients.length - v6, v6 };
}

/** Waits until so many more allocations than `before` were made over each family. */
async function allocatesOverBoth(daemon, before, least) {
  const began = performance.now();
  for (;;) {
    const { v4, v6 } = families(daemon);
    if (v4 - before.v4 >= least && v6 - before.v6 >= least) return;
    const isLate = performance.now() - began > EVERYBODY_MS;
    assert.ok(!isLate, `${v4 - before.v4} over IPv4, ${v6 - before.v6} over IPv6, not ${least}`);
    await after(50);
  }
}

test(`${VIEWERS} viewers are relayed, over every URL and both families`, { skip }, async (t) => {
  const network = closing(t, await Network.build(), (each) => each.remove());
  await network.addIpv6();
  const authority = await authorityFor(t);
  const daemon = await daemonFor(t, {
    namespace: network.server,
    whole: `public_host = "${NAME}"
      [tls]
      ${await authority.certificate(`DNS:${NAME}`)}
      [broadcast]
      viewers_per_room = ${VIEWERS}
      ice_policy = "relay"
      keys = [{ name = "studio", key = "${KEY}" }]`,
  });
  await daemon.isSettled();
  const before = families(daemon);
  const options = {
    names: await namesFor(t, NAME, SERVER, SERVER_V6),
    home: await authority.home(),
  };
  // One process for all pages: twenty would be the most of the work.
  const more = ["--renderer-process-limit=1"];
  const open = (which) =>
    browserFor(t, { namespace: network.client(which), more, ...options }, [NAME]);
  const [studio, sofas] = [await open("a"), await open("b")];
  const origin = `https://${NAME}`;
  const broadcaster = await goLive(studio, origin, { room: "stadium", key: KEY, prepare: small });
  const context = { viewport: { width: 320, height: 240 } };
  const first = await watch(sofas, origin, "stadium", { context });
  const watchers = [first];
  // One computer is the network, the browsers and the server; it need not set up all at once.
  while (watchers.length < VIEWERS) {
    const next = Array.from({ length: Math.min(AT_ONCE, VIEWERS - watchers.length) }, () =>
      watch(sofas, origin, "stadium", { beside: first }));
    watchers.push(...await Promise.all(next));
    await Promise.all(watchers.map((page) => becomes(page, "live", EVERYBODY_MS)));
  }
  await Promise.all(watchers.map((page) => holds(page,
    async () => (await window.turncast.measure())[0]?.frames > 5, null, EVERYBODY_MS)));
  // A browser that is connected by one of its ways may leave the others unfinished.
  const urls = await Promise.all([broadcaster, ...watchers].map(urlsOf));
  assert.deepEqual([...new Set(urls.flat())].sort(), URLS);
  await allocatesOverBoth(daemon, before, VIEWERS);
  await noQuotaHit(daemon);
  const metrics = await daemon.metrics();
  // Chromium connects more often than it speaks.
  const hits = [...metrics].filter(([name]) => name.startsWith("turncast_limit_hits_total")
    && !name.includes("handshake_time"));
  assert.ok(hits.length > 0);
  assert.deepEqual(hits.filter(([, value]) => value > 0), []);
  await goElsewhere(daemon, ...watchers);
  await leaveNothing(daemon, ...watchers, broadcaster);
});
