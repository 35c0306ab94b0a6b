// Every state of every page, in light and dark, on a phone and on a desk: a picture of each for
// people to look at (out/), and the rules of accessibility, checked by axe.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";

import { pictureFile, startBrowser } from "./harness/browser.js";
import { startDaemon } from "./harness/daemon.js";
import { becomes, goLive, moves, rowsBecome, watch } from "./harness/pages.js";
import { cableFor, daemonFor, HERE } from "./harness/stage.js";

const AXE = await readFile(new URL(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const SIZES = [
  ["phone", { width: 360, height: 740 }],
  ["desk", { width: 1280, height: 800 }],
];
const THEMES = ["light", "dark"];

let daemon;
let browser;

before(async () => {
  daemon = await startDaemon({ tables: { broadcast: "viewers_per_room = 1" } });
  browser = await startBrowser();
});

after(async () => {
  await browser?.close(HERE);
  await daemon?.stop();
});

/** Looks at a page in every size and theme. */
async function looksRight(page, name) {
  await page.bringToFront();
  const faults = [];
  for (const [size, viewport] of SIZES) {
    await page.setViewportSize(viewport);
    for (const colorScheme of THEMES) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.screenshot({ path: await pictureFile(`${name}-${size}-${colorScheme}`) });
      faults.push(...await accessibilityFaults(page, `${name}, ${size}, ${colorScheme}`));
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) faults.push(`${name}, ${size}: ${wide} pixels too wide`);
    const cut = await page.evaluate(() => [...document.querySelectorAll(".screen, .stage")]
      .some((each) => each.scrollHeight > each.clientHeight));
    if (cut) faults.push(`${name}, ${size}: the words do not fit over the picture`);
  }
  assert.deepEqual(faults, []);
}

async function accessibilityFaults(page, where) {
  // A policy that allows no inline script still lets the driver evaluate one.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  return violations.map(({ id, nodes }) => {
    const places = nodes.map((node) => `${node.target.join(" ")} (${node.failureSummary})`);
    return `${where}: ${id}: ${places.join("; ")}`;
  });
}

/** Makes the browser refuse its devices with an error of this name. */
function refusing(names) {
  return (page) => page.addInitScript((errors) => {
    navigator.mediaDevices.getUserMedia = async (constraints) => {
      const kind = constraints.video && errors.video ? "video" : "audio";
      if (constraints[kind] && errors[kind]) throw new DOMException("made by a test", errors[kind]);
      return MediaDevices.prototype.getUserMedia.call(navigator.mediaDevices, constraints);
    };
  }, names);
}

const both = (name) => ({ video: name, audio: name });

test("the start page", async () => {
  const page = await browser.open(`${daemon.web}/`);
  await looksRight(page, "home");
  await page.click("#join button");
  assert.match(await page.textContent("#room-mistake"), /Type the room/);
  await page.fill("#room", "no room");
  await page.keyboard.press("Enter");
  assert.match(await page.textContent("#room-mistake"), /letters, digits/);
  await looksRight(page, "home-mistake");
  await page.fill("#room", `${daemon.web}/watch/from-a-link?relay=1`);
  await page.keyboard.press("Enter");
  await page.waitForURL("**/watch/from-a-link");
  await page.close();
});

test("before going live", async () => {
  const page = await browser.open(`${daemon.web}/broadcast`);
  await becomes(page, "ready");
  await looksRight(page, "broadcast-ready");
  await page.fill("#room", "not a name");
  await page.click("#go");
  assert.match(await page.textContent("#room-mistake"), /without spaces/);
  await looksRight(page, "broadcast-room-mistake");
  await page.close();
});

test("waiting for the permission", async () => {
  const page = await browser.open(`${daemon.web}/broadcast`, {
    prepare: (each) => each.addInitScript(() => {
      navigator.mediaDevices.getUserMedia = () => new Promise(() => {});
    }),
  });
  await becomes(page, "asking");
  await looksRight(page, "broadcast-asking");
  await page.close();
});

const TROUBLES = [
  ["refused", both("NotAllowedError"), "blocked", /blocked/, /choose Allow/],
  ["missing", both("NotFoundError"), "blocked", /No camera and no microphone/, /Plug one in/],
  ["in-use", both("NotReadableError"), "blocked", /in use/, /Close that program/],
];

for (const [name, errors, state, title, step] of TROUBLES) {
  test(`camera and microphone: ${name}`, async () => {
    const page = await browser.open(`${daemon.web}/broadcast`, { prepare: refusing(errors) });
    await becomes(page, state);
    assert.match(await page.textContent("#cover-title"), title);
    assert.match(await page.textContent("#cover-text"), step);
    assert.ok(await page.isDisabled("#go"));
    await looksRight(page, `broadcast-${name}`);
    await page.close();
  });
}

test("no camera: voice alone", async () => {
  const page = await browser.open(`${daemon.web}/broadcast`, {
    prepare: refusing({ video: "NotFoundError" }),
  });
  await becomes(page, "ready");
  assert.match(await page.textContent("#source-notice"), /voice alone/);
  await looksRight(page, "broadcast-voice-ready");
  await page.fill("#room", "voice");
  await page.click("#go");
  await becomes(page, "live");
  const watcher = await watch(browser, daemon.web, "voice");
  await becomes(watcher, "live");
  await watcher.waitForSelector("#voice:not([hidden])");
  assert.equal(await watcher.textContent("#voice-text"), "Voice only");
  await looksRight(watcher, "watch-voice");
  await watcher.close();
  await page.close();
});

test("the microphone alone is in use: seen without sound", async () => {
  const page = await browser.open(`${daemon.web}/broadcast`, {
    prepare: refusing({ audio: "NotReadableError" }),
  });
  await becomes(page, "ready");
  assert.match(await page.textContent("#source-notice"), /without sound/);
  await page.close();
});

test("a page that is not secure says so before it asks", async () => {
  const page = await browser.open(`${daemon.web}/broadcast`, {
    prepare: (each) => each.addInitScript(() => {
      window.asked = false;
      Object.defineProperty(window, "isSecureContext", { value: false });
      navigator.mediaDevices.getUserMedia = async () => {
        window.asked = true;
        throw new DOMException("asked", "NotAllowedError");
      };
    }),
  });
  await becomes(page, "insecure");
  assert.match(await page.textContent("#cover-text"), /https:\/\//);
  assert.equal(await page.evaluate(() => window.asked), false);
  await looksRight(page, "broadcast-insecure");
  await page.close();
});

test("live, with nobody, with one, paused, asked to end, ended", async () => {
  const page = await goLive(browser, daemon.web, { room: "states" });
  await looksRight(page, "broadcast-live-nobody");
  const watcher = await watch(browser, daemon.web, "states");
  await becomes(watcher, "live");
  await moves(watcher);
  await looksRight(watcher, "watch-live-muted");
  await watcher.click("#sound");
  await watcher.click("#about summary");
  await watcher.waitForSelector("#figures dt");
  await looksRight(watcher, "watch-live-figures");
  await watcher.click("#about summary");
  await rowsBecome(page, ["Viewer 1: Direct"]);
  await looksRight(page, "broadcast-live-one");

  const full = await watch(browser, daemon.web, "states");
  await becomes(full, "full");
  await looksRight(full, "watch-full");
  await full.close();

  await page.bringToFront();
  await page.click("#pause");
  await looksRight(page, "broadcast-live-paused");
  await watcher.waitForSelector("#voice:not([hidden])");
  await looksRight(watcher, "watch-paused");
  await page.click("#pause");

  await page.bringToFront();
  await page.click("#end");
  await looksRight(page, "broadcast-confirm");
  await page.keyboard.press("Escape");
  await page.click("#end");
  await page.click("#confirm-yes");
  await becomes(page, "ended");
  await looksRight(page, "broadcast-ended");
  await becomes(watcher, "ended");
  await looksRight(watcher, "watch-ended");
  await watcher.close();
  await page.close();
});

test("a room that is taken", async () => {
  const first = await goLive(browser, daemon.web, { room: "taken" });
  const second = await browser.open(`${daemon.web}/broadcast`);
  await becomes(second, "ready");
  await second.fill("#room", "taken");
  await second.click("#go");
  await second.waitForSelector("#setup-mistake:not([hidden])");
  assert.match(await second.textContent("#setup-mistake"), /Choose another room name/);
  await looksRight(second, "broadcast-room-taken");
  await second.close();
  await first.close();
});

test("waiting, away, and a name that is none", async () => {
  const watcher = await watch(browser, daemon.web, "nobody-yet");
  await becomes(watcher, "waiting");
  await looksRight(watcher, "watch-waiting");
  const page = await goLive(browser, daemon.web, { room: "nobody-yet" });
  await becomes(watcher, "live");
  await moves(watcher);
  await page.close();
  await becomes(watcher, "away");
  await looksRight(watcher, "watch-away");
  await watcher.close();
});

test("the way between two browsers breaks: reconnecting, then failed", async () => {
  const page = await goLive(browser, daemon.web, { room: "broken" });
  const watcher = await watch(browser, daemon.web, "broken");
  await becomes(watcher, "live");
  await moves(watcher);
  // Both ends close without a word, and nothing that is rebuilt may find a way.
  const breakWays = () => {
    const add = RTCPeerConnection.prototype.addIceCandidate;
    RTCPeerConnection.prototype.addIceCandidate = function dropped() {
      return add ? Promise.resolve() : undefined;
    };
    const describe = RTCPeerConnection.prototype.setRemoteDescription;
    RTCPeerConnection.prototype.setRemoteDescription = function bare({ type, sdp }) {
      return describe.call(this, { type, sdp: sdp.replace(/a=candidate.*\r\n/g, "") });
    };
  };
  await page.evaluate(breakWays);
  await watcher.evaluate(breakWays);
  await page.evaluate(() => {
    turncast.pcs[0].close();
  });
  await becomes(watcher, "reconnecting");
  await looksRight(watcher, "watch-reconnecting");
  await becomes(watcher, "failed", 90_000);
  assert.match(await watcher.textContent("#cover-text"), /Try again/);
  await looksRight(watcher, "watch-failed");
  await rowsBecome(page, ["Viewer 1: No connection"]);
  await looksRight(page, "broadcast-viewer-failed");
  await watcher.close();
  await page.close();
});

test("the server is out of reach", async (t) => {
  browser.allow(/WebSocket connection/);
  const own = await daemonFor(t, {
    tables: { broadcast: "ping_interval_secs = 1\nping_timeout_secs = 1" },
  });
  const cable = await cableFor(t, own);
  const page = await goLive(browser, cable.origin, { room: "lost" });
  const watcher = await watch(browser, cable.origin, "nobody");
  await becomes(watcher, "waiting");
  cable.pull();
  await becomes(watcher, "lost");
  await looksRight(watcher, "watch-lost");
  await page.waitForSelector("#lost:not([hidden])");
  await looksRight(page, "broadcast-lost");
  cable.plug();
  await page.waitForSelector("#lost", { state: "hidden" });
  await becomes(watcher, "waiting");
  await watcher.close();
  await page.close();
});

test("everything can be reached and used by the keyboard", async () => {
  const page = await browser.open(`${daemon.web}/broadcast`);
  await becomes(page, "ready");
  const reached = new Set();
  for (let presses = 0; presses < 20; presses += 1) {
    await page.keyboard.press("Tab");
    const id = await page.evaluate(() => document.activeElement?.id);
    if (id) reached.add(id);
  }
  for (const id of ["mute", "pause", "share", "room", "go", "camera", "microphone", "height"]) {
    assert.ok(reached.has(id), `${id} is not reached; ${[...reached]} are`);
  }
  await page.fill("#room", "keys");
  await page.focus("#room");
  await page.keyboard.press("Enter");
  await becomes(page, "live");
  assert.equal(await page.evaluate(() => document.activeElement.id), "live-title");
  const watcher = await watch(browser, daemon.web, "keys");
  await becomes(watcher, "live");
  await watcher.keyboard.press("m");
  await watcher.waitForSelector('#mute[aria-pressed="false"]');
  await watcher.keyboard.press("f");
  await watcher.waitForFunction(() => document.fullscreenElement?.id === "stage");
  await watcher.close();
  await page.close();
});
