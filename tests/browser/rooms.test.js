// What happens in a room: who comes when, who leaves how, what is lost and comes back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as after } from "node:timers/promises";

import { KEY } from "./harness/daemon.js";
import {
  becomes, goElsewhere, goLive, leaveNothing, moves, noQuotaHit, rowsBecome, seesAndHears, watch,
} from "./harness/pages.js";
import { cableFor, daemonFor, stage } from "./harness/stage.js";

test("eight watch through the relay without a quota, and the ninth reads that it is full",
  async (t) => {
    const { daemon, studio, sofa } = await stage(t);
    const broadcaster = await goLive(studio, daemon.web, { room: "house", relay: true });
    const watchers = [];
    for (let n = 1; n <= 8; n += 1) {
      const watcher = await watch(sofa, daemon.web, "house", { relay: true });
      await becomes(watcher, "live");
      watchers.push(watcher);
    }
    for (const watcher of watchers) await moves(watcher);
    await rowsBecome(broadcaster, watchers.map((_, n) => `Viewer ${n + 1}: Relayed · UDP`));
    assert.equal(await broadcaster.textContent("#count"), "8");
    await noQuotaHit(daemon);

    const ninth = await watch(sofa, daemon.web, "house", { relay: true });
    await becomes(ninth, "full");
    assert.match(await ninth.textContent("#cover-title"), /full/);
    // As soon as somebody leaves there is a place, and the button does not wait for the timer.
    await watchers.pop().close();
    await rowsBecome(broadcaster, watchers.map((_, n) => `Viewer ${n + 1}: Relayed · UDP`));
    await ninth.click("#cover-action");
    await becomes(ninth, "live");
    await noQuotaHit(daemon);
    await goElsewhere(daemon, ...watchers, ninth);
    await leaveNothing(daemon, ...watchers, ninth, broadcaster);
  });

test("who comes before the broadcaster waits, and sees it start by itself", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const watcher = await watch(sofa, daemon.web, "early");
  await becomes(watcher, "waiting");
  const broadcaster = await goLive(studio, daemon.web, { room: "early" });
  await seesAndHears(watcher);
  await leaveNothing(daemon, watcher, broadcaster);
});

test("a closed tab leaves the list at once, and the others see no break", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, daemon.web, { room: "tabs" });
  const stays = await watch(sofa, daemon.web, "tabs");
  await becomes(stays, "live");
  const leaves = await watch(sofa, daemon.web, "tabs");
  await becomes(leaves, "live");
  await rowsBecome(broadcaster, ["Viewer 1: Direct", "Viewer 2: Direct"]);
  await leaves.close();
  await rowsBecome(broadcaster, ["Viewer 1: Direct"], 5_000);
  await stays.waitForFunction(() => turncast.watchers === 1);
  await moves(stays);
});

test("a tab whose socket is lost at its end leaves at once all the same", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const cable = await cableFor(t, daemon);
  const broadcaster = await goLive(studio, daemon.web, { room: "mute" });
  const watcher = await watch(sofa, cable.origin, "mute");
  await becomes(watcher, "live");
  await rowsBecome(broadcaster, ["Viewer 1: Direct"]);
  // A browser that is busy drops what the socket of a page still had to say.
  cable.loseWebSockets();
  await watcher.close();
  await rowsBecome(broadcaster, [], 5_000);
});

test("a socket that is closing while the page asks is replaced without an error", async (t) => {
  const { daemon, sofa } = await stage(t);
  const keep = (page) => page.addInitScript(() => {
    window.WebSocket = class extends WebSocket {
      constructor(...args) {
        super(...args);
        window.socket = this;
      }
    };
  });
  const watcher = await watch(sofa, daemon.web, "closing", { prepare: keep });
  await becomes(watcher, "waiting");
  await watcher.evaluate(() => {
    window.closing = window.socket;
    window.closing.close(4099);
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await watcher.waitForFunction(() => window.socket !== window.closing);
  await becomes(watcher, "waiting");
});

test("a socket that is cut for ten seconds stops no video, and nobody is told", async (t) => {
  const { daemon, studio, sofa } = await stage(t, {
    broadcast: "ping_interval_secs = 2\nping_timeout_secs = 2",
  });
  const cable = await cableFor(t, daemon);
  sofa.allow(/WebSocket connection/);
  const broadcaster = await goLive(studio, daemon.web, { room: "cut" });
  const watcher = await watch(sofa, cable.origin, "cut");
  await seesAndHears(watcher);
  await rowsBecome(broadcaster, ["Viewer 1: Direct"]);
  const linkBefore = await broadcaster.evaluate(() => turncast.links[0].id);
  await broadcaster.evaluate(() => {
    window.heard = [];
    new MutationObserver(() => window.heard.push(document.getElementById("announce").textContent))
      .observe(document.getElementById("announce"), { childList: true });
  });
  await watcher.evaluate(watchGaps);

  cable.pull();
  // The length of the cut is the subject here.
  await after(10_000);
  assert.notEqual(await watcher.evaluate(() => turncast.signaling), "joined", "the cut is noticed");
  assert.equal(await watcher.evaluate(() => turncast.state), "live");
  cable.plug();
  await watcher.waitForFunction(() => turncast.signaling === "joined");
  await moves(watcher);

  assert.ok(await watcher.evaluate(() => turncast.sockets) >= 2);
  const gapMs = await watcher.evaluate(() => window.longestGapMs);
  assert.ok(gapMs < 1_500, `the video stood still for ${gapMs} ms`);
  assert.equal(await broadcaster.evaluate(() => turncast.links[0].id), linkBefore);
  assert.deepEqual(await broadcaster.evaluate(() => window.heard), []);
  // The membership that came back is the old one: it still hears what happens.
  await broadcaster.click("#end");
  await broadcaster.click("#confirm-yes");
  await becomes(watcher, "ended");
});

/** Runs in the page: keeps the longest time without a new frame. */
function watchGaps() {
  const video = document.querySelector("video.showing");
  window.longestGapMs = 0;
  let last = performance.now();
  const frame = (now) => {
    window.longestGapMs = Math.max(window.longestGapMs, now - last);
    last = now;
    video.requestVideoFrameCallback(frame);
  };
  video.requestVideoFrameCallback(frame);
}

test("credentials of ten seconds are renewed for whoever joins later", async (t) => {
  const { daemon, studio, sofa } = await stage(t, { turn: "credential_ttl_secs = 10" });
  const broadcaster = await goLive(studio, daemon.web, { room: "long", relay: true });
  const first = await watch(sofa, daemon.web, "long", { relay: true });
  const waits = await watch(sofa, daemon.web, "later", { relay: true });
  await becomes(first, "live");
  await becomes(waits, "waiting");
  await first.evaluate(watchGaps);
  // The age of the credentials is the subject here.
  await after(25_000);
  const second = await watch(sofa, daemon.web, "long", { relay: true });
  await seesAndHears(second);
  await moves(first);
  const gapMs = await first.evaluate(() => window.longestGapMs);
  assert.ok(gapMs < 2_500, `a long watch stood still for ${gapMs} ms`);
  const other = await goLive(studio, daemon.web, { room: "later", relay: true });
  await seesAndHears(waits);
  await leaveNothing(daemon, first, second, waits, broadcaster, other);
});

test("a broadcaster who reloads comes back by himself, and so do the viewers", async (t) => {
  const { daemon, studio, sofa } = await stage(t, {
    broadcast: `publish = "key"\nkeys = [{ name = "studio", key = "${KEY}" }]`,
  });
  const broadcaster = await goLive(studio, daemon.web, { room: "again", key: KEY });
  const watcher = await watch(sofa, daemon.web, "again");
  await seesAndHears(watcher);
  const linkBefore = await watcher.evaluate(() => turncast.links[0].id);
  await broadcaster.reload();
  await becomes(broadcaster, "live");
  assert.equal(await broadcaster.evaluate(() => turncast.room), "again");
  await watcher.waitForFunction(
    (before) => turncast.links.length === 1 && turncast.links[0].id !== before
      && turncast.links[0].state === "connected",
    linkBefore,
    { timeout: 30_000 },
  );
  await seesAndHears(watcher);
  await rowsBecome(broadcaster, ["Viewer 1: Direct"]);
  assert.ok(await watcher.isHidden("#sound"), "the sound that was on stays on");
  await leaveNothing(daemon, watcher, broadcaster);
});

test("a broadcaster without a key is asked for one, and gets in with it", async (t) => {
  const { daemon, studio } = await stage(t, {
    broadcast: `publish = "key"\nkeys = [{ name = "studio", key = "${KEY}" }]`,
  });
  const page = await studio.open(`${daemon.web}/broadcast`);
  await becomes(page, "ready");
  await page.click("#go");
  await page.waitForSelector("#key:focus");
  await page.fill("#key", "not-the-key-of-this-server");
  await page.click("#go");
  await page.waitForFunction(
    () => /not valid/.test(document.querySelector("#setup-mistake").innerText),
  );
  await page.fill("#key", `${daemon.web}/broadcast#key=${KEY}`);
  await page.click("#go");
  await becomes(page, "live");
  assert.ok(!(await page.inputValue("#watch-link")).includes(KEY));
  assert.ok(!daemon.text().includes(KEY), "the log does not know the key");
});

test("a restarted server gets its room back, and the direct video never stops", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const cable = await cableFor(t, daemon);
  const broadcaster = await goLive(studio, cable.origin, { room: "phoenix" });
  const watcher = await watch(sofa, cable.origin, "phoenix");
  await seesAndHears(watcher);
  await watcher.evaluate(watchGaps);
  const second = await daemonFor(t, {});
  for (const browser of [studio, sofa]) browser.allow(/WebSocket connection/);
  cable.retarget(second.address);
  await watcher.waitForFunction(
    () => turncast.sockets > 1 && turncast.signaling === "joined",
    null,
    { timeout: 30_000 },
  );
  await broadcaster.waitForFunction(() => turncast.links.length === 1
    && turncast.links[0].state === "connected" && turncast.sockets > 1, null, { timeout: 30_000 });
  await becomes(watcher, "live");
  await moves(watcher);
  assert.equal(await second.metric("turncast_broadcasters"), 1);
});

test("who watches is told that the broadcast has ended, and the camera is off", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, daemon.web, { room: "end" });
  const watcher = await watch(sofa, daemon.web, "end");
  await becomes(watcher, "live");
  await broadcaster.click("#end");
  await broadcaster.click("#confirm-yes");
  await becomes(watcher, "ended");
  await becomes(broadcaster, "ended");
  const shown = () => document.querySelector("#preview").srcObject;
  assert.equal(await broadcaster.evaluate(shown), null);
  await daemon.metricBecomes("turncast_allocations", 0, 2_000);
  await daemon.metricBecomes("turncast_rooms", 0, 2_000);
  // And it can begin anew, in another room.
  await broadcaster.click("#again");
  await becomes(broadcaster, "ready");
  await broadcaster.click("#go");
  await becomes(broadcaster, "live");
});

test("a connection that died on one side is rebuilt", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, daemon.web, { room: "rebuilt", relay: true });
  const watcher = await watch(sofa, daemon.web, "rebuilt", { relay: true });
  await seesAndHears(watcher);
  const link = await watcher.evaluate(() => turncast.links[0].id);
  await broadcaster.evaluate(() => turncast.pcs[0].close());
  await becomes(watcher, "reconnecting");
  await becomes(watcher, "live", 60_000);
  await moves(watcher);
  assert.notEqual(await watcher.evaluate(() => turncast.links[0].id), link);
  await rowsBecome(broadcaster, ["Viewer 1: Relayed · UDP"]);
  await leaveNothing(daemon, watcher, broadcaster);
});

test("a change of the picture reconnects nobody", async (t) => {
  const { daemon, studio, sofa } = await stage(t);
  const broadcaster = await goLive(studio, daemon.web, { room: "change" });
  const watcher = await watch(sofa, daemon.web, "change");
  await seesAndHears(watcher);
  const link = await watcher.evaluate(() => turncast.links[0].id);
  await broadcaster.click("#share");
  await broadcaster.waitForSelector('#share[aria-pressed="true"]');
  await moves(watcher);
  await broadcaster.click("#share");
  await broadcaster.waitForSelector('#share[aria-pressed="false"]');
  await moves(watcher);
  await broadcaster.selectOption("#camera", "none");
  await watcher.waitForSelector("#voice:not([hidden])");
  await broadcaster.selectOption("#camera", { index: 0 });
  await watcher.waitForSelector("#voice", { state: "hidden" });
  await moves(watcher);
  assert.equal(await watcher.evaluate(() => turncast.links[0].id), link);
  assert.equal(await watcher.evaluate(() => turncast.links.length), 1);
});
