// A full room whose viewers all use the relay, with all that browsers allocate then: for each
// connection one allocation for every URL, over each family of addresses.

import assert from "node:assert/strict";
import { test } from "node:test";

import { authorityFor } from "./harness/authority.js";
import { closing } from "./harness/cleanup.js";
import { KEY } from "./harness/daemon.js";
import { mayMakeNetworks, Network, SERVER, SERVER_V6 } from "./harness/network.js";
import { becomes, goElsewhere, goLive, leaveNothing, noQuotaHit, watch } from "./harness/pages.js";
import { browserFor, daemonFor, namesFor } from "./harness/stage.js";

const NAME = "cast.example.org";
const VIEWERS = 20;
const AT_ONCE = 5;
const URLS = 2;
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
  const created = "turncast_allocations_created_total";
  const before = (await daemon.isSettled()).get(created);
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
  await Promise.all(watchers.map((page) => page.waitForFunction(
    async () => (await window.turncast.measure())[0]?.frames > 5,
    null, { timeout: EVERYBODY_MS, polling: 500 })));
  await noQuotaHit(daemon);
  const metrics = await daemon.metrics();
  // Each side of a link allocates once for each URL: what is more came over the other family.
  const allocated = metrics.get(created) - before;
  assert.ok(allocated > VIEWERS * 2 * URLS, `${allocated} allocations`);
  // Chromium connects more often than it speaks.
  const hits = [...metrics].filter(([name]) => name.startsWith("turncast_limit_hits_total")
    && !name.includes("handshake_time"));
  assert.ok(hits.length > 0);
  assert.deepEqual(hits.filter(([, value]) => value > 0), []);
  await goElsewhere(daemon, ...watchers);
  await leaveNothing(daemon, ...watchers, broadcaster);
});
