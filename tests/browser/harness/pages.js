// What the tests do with the pages, in the words of a person: go live, watch, turn on the sound;
// and what they wait for: a state, a moving picture, a growing sound.

import assert from "node:assert/strict";
import { setTimeout as after } from "node:timers/promises";

const STATE_MS = 30_000;
const MEDIA_MS = 20_000;
const ASK_MS = 200;

/** Waits until the page shows this state. */
export async function becomes(page, state, timeout = STATE_MS) {
  try {
    await page.waitForFunction((wanted) => window.turncast?.state === wanted, state, { timeout });
  } catch (error) {
    const now = await page.evaluate(() => JSON.stringify(
      { ...window.turncast, links: window.turncast?.links?.map((l) => [l.id, l.state, l.path]) },
    )).catch(() => "nothing");
    throw new Error(`the page did not become ${state}; it says ${now}`, { cause: error });
  }
}

/**
 * Waits until what the page is asked for, asynchronously, is true. Playwright's `waitForFunction`
 * takes a promise for a yes, whatever comes of it.
 */
export async function holds(page, predicate, argument, timeout = MEDIA_MS) {
  const began = performance.now();
  while (!await page.evaluate(predicate, argument)) {
    const isLate = performance.now() - began > timeout;
    assert.ok(!isLate, `with ${JSON.stringify(argument)} it did not come true: ${predicate}`);
    // Statistics have no event to wait for; they are asked again.
    await after(ASK_MS);
  }
}

/** Opens the broadcaster's page and goes live. @returns {Promise<Page>} */
export async function goLive(browser, origin, { room, relay, key, prepare, height = 480 } = {}) {
  const query = relay ? "?relay=1" : "";
  const fragment = key ? `#key=${key}` : "";
  const page = await browser.open(`${origin}/broadcast${query}${fragment}`, { prepare });
  await becomes(page, "ready");
  // The tests run on small machines; many encoders need not be large as well.
  await page.selectOption("#height", String(height));
  if (room) await page.fill("#room", room);
  await page.click("#go");
  await becomes(page, "live");
  return page;
}

/** Opens a watcher's page. @returns {Promise<Page>} */
export function watch(browser, origin, room, { relay, ...options } = {}) {
  return browser.open(`${origin}/watch/${room}${relay ? "?relay=1" : ""}`, options);
}

/** The link that the broadcaster's page offers for copying. */
export function watchLink(page) {
  return page.inputValue("#watch-link");
}

/** Live, decoding, moving and audible: all that a viewer wants. */
export async function seesAndHears(page) {
  await becomes(page, "live");
  await moves(page);
  await hears(page);
}

/** Frames are decoded, and two pictures of the video differ. */
export async function moves(page) {
  const before = await page.evaluate(async () => (await window.turncast.measure())[0].frames);
  await holds(page, async (frames) => {
    const [reading] = await window.turncast.measure();
    return reading?.frames > frames + 5;
  }, before);
  await page.waitForFunction(() => {
    const video = document.querySelector("video.showing");
    if (!video?.videoWidth) return false;
    const canvas = document.createElement("canvas");
    canvas.width = 32;
    canvas.height = 18;
    const brush = canvas.getContext("2d");
    brush.drawImage(video, 0, 0, 32, 18);
    const picture = brush.getImageData(0, 0, 32, 18).data.join();
    const before = window.pictureBefore;
    window.pictureBefore = picture;
    return before !== undefined && before !== picture;
  }, null, { timeout: MEDIA_MS, polling: 200 });
}

/** The sound is turned on by the button that the page shows, and its energy grows. */
export async function hears(page) {
  if (await page.isVisible("#sound")) await page.click("#sound");
  const before = await page.evaluate(async () => (await window.turncast.measure())[0].audioEnergy);
  await holds(page, async (energy) => {
    const [reading] = await window.turncast.measure();
    return reading?.audioEnergy > energy;
  }, before);
}

/** The types of the selected candidates and the path, as getStats says. */
export async function selectedPair(page) {
  await holds(page, async () => Boolean((await window.turncast.measure())[0]?.path));
  return page.evaluate(async () => {
    const [{ local, remote, path }] = await window.turncast.measure();
    return { local, remote, path };
  });
}

/** What the broadcaster's list says: one line for each viewer. */
export function viewerRows(page) {
  return page.$$eval("#viewers .viewer", (rows) => rows.map((row) => {
    const [, name, pill] = row.children;
    return `${name.textContent}: ${pill.textContent}`;
  }));
}

/** Waits until the broadcaster's list says this. */
export async function rowsBecome(page, wanted, timeout = STATE_MS) {
  const text = JSON.stringify(wanted);
  await page.waitForFunction((expected) => {
    const rows = [...document.querySelectorAll("#viewers .viewer")].map((row) => {
      const [, name, pill] = row.children;
      return `${name.textContent}: ${pill.textContent}`;
    });
    return JSON.stringify(rows) === expected;
  }, text, { timeout }).catch(async (error) => {
    const rows = JSON.stringify(await viewerRows(page));
    throw new Error(`the list says ${rows}, not ${text}`, { cause: error });
  });
}

/**
 * Many pages leave a room. Chromium gives a tab that is closed half a second for its farewell,
 * which many at once may miss; one that goes elsewhere and stays open says it for sure.
 */
export async function goElsewhere(daemon, ...watchers) {
  for (const page of watchers) await page.goto("about:blank");
  await daemon.metricBecomes("turncast_watchers", 0, 10_000);
}

/** Leaves as a person does, and sees that the relay forgets both within two seconds. */
export async function leaveNothing(daemon, ...pages) {
  for (const page of pages) await page.close();
  const tookMs = await daemon.metricBecomes("turncast_allocations", 0, 2_000);
  assert.ok(tookMs < 2_000, `allocations were left for ${tookMs} ms`);
  await daemon.metricBecomes("turncast_watchers", 0, 2_000);
}

/** Nobody was refused an allocation for a quota. */
export async function noQuotaHit(daemon) {
  const metrics = await daemon.metrics();
  const hits = [...metrics].filter(([name]) => name.includes('code="486"'));
  assert.ok(hits.every(([, value]) => value === 0), JSON.stringify(hits));
  // A refusal stands there only after the first one; these always do.
  for (const limit of ["allocations", "allocations_per_link", "allocations_per_user"]) {
    assert.equal(metrics.get(`turncast_limit_hits_total{limit="${limit}"}`), 0, limit);
  }
}
