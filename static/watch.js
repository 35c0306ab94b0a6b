// The watcher's page. It joins the room, takes whatever link the hub announces, and shows it.
//
// States, as in <body data-state>: joining, lost (no server), waiting, away (the broadcaster was
// here), connecting, live, reconnecting, failed, full, locked, busy, ended, stopped. The state is
// computed from what is known (`stateNow`), never set by hand, so that no two facts disagree.

import { expose } from "./lib/inspect.js";
import { Link } from "./lib/link.js";
import { JOINED, LOST, REFUSED, Signaling, STOPPED } from "./lib/signaling.js";
import { Stage } from "./lib/stage.js";
import { announce, counted, part, relayForced, ROOM_NAME, setPill, show } from "./lib/ui.js";
import { watchWords } from "./lib/words.js";

const MEASURE_MS = 2_000;
/** New connections in a row that fail before the page says so. */
const REBUILDS_MAX = 1;
/** A new link is announced within this time, or not at all. */
const REBUILD_MS = 10_000;

const room = decodeRoom();
const forceRelay = relayForced();
const stage = new Stage(part("stage"));
const signaling = new Signaling({ hello, onMessage: handle, onState: render });

let member = "";
let watchers = 0;
/** What the hub says of the room: "", waiting, live or ended. */
let roomState = "";
let wasLive = false;
/** What the hub announced last: {id, ice}. It becomes a connection when somebody is live. */
let announced = null;
/** The connection of that link, and the one that is on screen until it is. */
let link = null;
let shown = null;
let rebuilds = 0;
let failure = "";
let lastReport = "";
let lastReading = null;
let lastShown = "";
let lastRefusal = "";

expose({
  page: "watch",
  get state() { return document.body.dataset.state; },
  get signaling() { return signaling.state; },
  get sockets() { return signaling.sockets; },
  room,
  get member() { return member; },
  get watchers() { return watchers; },
  get links() { return [...new Set([link, shown])].filter(Boolean); },
});

// --- Start ---------------------------------------------------------------------------------

part("room").textContent = room;
wire();
if (ROOM_NAME.test(room) && window.RTCPeerConnection) signaling.start();
render();
setInterval(() => measure().catch(() => {}), MEASURE_MS);

function decodeRoom() {
  const name = location.pathname.split("/")[2] ?? "";
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

function hello() {
  return { role: "watcher", room };
}

// --- What the hub says ---------------------------------------------------------------------

function handle(message) {
  if (message.watchers !== undefined) watchers = message.watchers;
  switch (message.t) {
    case "welcome":
      welcomed(message);
      break;
    case "room":
      roomChanged(message);
      break;
    case "ice":
      if (message.ice) refresh(message.ice);
      for (const each of message.links ?? []) {
        if (each.link === announced?.id) refresh(each.ice);
      }
      break;
    case "offer":
    case "answer":
    case "candidates":
      if (message.link === link?.id) link.receive(message);
      break;
    case "restart":
      if (message.link === link?.id) link.restartAsked();
      break;
    default:
  }
  render();
}

function welcomed(message) {
  member = message.member;
  watchers = message.room.watchers ?? watchers;
  if (message.resumed) {
    if (message.ice) refresh(message.ice);
    link?.resync();
    return;
  }
  // A new membership has a new link; the picture of the old one stays until the new one is there.
  if (link && link !== shown) link.close();
  link = null;
  shown?.detach();
  roomState = message.room.state;
  lastReport = "";
  rebuilds = 0;
  failure = "";
  follow(message);
}

function refresh(ice) {
  if (announced) announced.ice = ice;
  link?.refresh(ice);
}

function roomChanged(message) {
  roomState = message.state;
  // Ended or waiting: the broadcaster is gone, and its media with it. The last picture stays.
  if (message.state !== "live") closeLinks();
  follow(message);
}

/** Keeps what was announced, and connects when there is somebody to connect to. */
function follow({ link: id, ice }) {
  if (id) announced = { id, ice: ice ?? announced?.ice };
  if (roomState === "live") {
    wasLive = true;
    failure = "";
    if (announced && announced.id !== link?.id) connect(announced);
  }
}

function closeLinks() {
  link?.close();
  shown?.close();
  link = shown = null;
}

/** Prepares the announced link. The offer comes from the broadcaster, and starts it. */
function connect({ id, ice }) {
  if (link && link !== shown) link.close();
  const stream = new MediaStream();
  link = new Link({
    id,
    polite: true,
    ice,
    forceRelay,
    send: (message) => signaling.send(message),
    onChange: linkChanged,
    onTrack: (track) => takeTrack(stream, track),
    onBeyondRepair: beyondRepair,
  });
  link.stream = stream;
}

// --- Media ---------------------------------------------------------------------------------

/** Sound joins at once; the picture when its first packet is there (see lib/stage.js). */
function takeTrack(stream, track) {
  const add = () => {
    if (!stream.getTracks().includes(track)) stream.addTrack(track);
    if (track.kind === "video" && link?.stream === stream) presentNow();
    render();
  };
  if (track.kind === "audio" || !track.muted) add();
  track.addEventListener("unmute", add);
}

function linkChanged(changed) {
  if (changed.state === "connected") {
    rebuilds = 0;
    failure = "";
    presentNow();
    report(changed);
  }
  render();
}

/** Shows the newest link once it is connected; only then the one before it may go. */
async function presentNow() {
  const next = link;
  if (next?.state !== "connected") return;
  if (shown && shown !== next && !next.stream.getTracks().length) return;
  await stage.present(next.stream);
  if (link !== next || shown === next || stage.stream !== next.stream) return;
  const before = shown;
  shown = next;
  if (before) before.close();
  render();
}

function report(changed) {
  if (changed !== link || !changed.path) return;
  const text = `${changed.id} ${changed.state} ${changed.path}`;
  if (text === lastReport) return;
  lastReport = text;
  signaling.send({ t: "report", link: changed.id, state: "connected", path: changed.path });
}

/** ICE did not help: a new connection, and after that the truth. */
function beyondRepair(broken) {
  if (broken !== link || roomState !== "live") return;
  if (rebuilds < REBUILDS_MAX) {
    rebuilds += 1;
    rebuild();
  } else {
    failure = broken.relayError ? "no-relay" : "no-path";
    signaling.send({ t: "report", link: broken.id, state: "failed", code: failure });
  }
  render();
}

function rebuild() {
  const broken = link;
  if (!broken) return;
  signaling.send({ t: "restart", link: broken.id, rebuild: true });
  // The hub may refuse, or be away: then nothing new comes, and the page should say so.
  setTimeout(() => {
    if (link !== broken || broken.state === "connected") return;
    failure = "no-path";
    render();
  }, REBUILD_MS);
}

async function measure() {
  if (link?.state !== "connected") return;
  const reading = await link.measure();
  const before = lastReading?.link === link ? lastReading : null;
  lastReading = { ...reading, link };
  report(link);
  renderFigures(reading, before);
  // Nothing new to see for a while, though the connection lives: voice, or a paused picture.
  const still = before && reading.frames === before.frames && stateNow() === "live";
  show(part("voice"), Boolean(still || (before && reading.frames === 0)));
  part("voice-text").textContent = reading.frames === 0 ? "Voice only" : "The picture is paused";
}

// --- Rendering -----------------------------------------------------------------------------

function stateNow() {
  if (!window.RTCPeerConnection || !ROOM_NAME.test(room)) return "stopped";
  if (roomState === "ended" || signaling.detail.code === "room-ended") return "ended";
  if (signaling.state === STOPPED) return "stopped";
  if (signaling.state === REFUSED || (signaling.state !== JOINED && lastRefusal)) {
    return refusalState(lastRefusal || signaling.detail.code);
  }
  if (link?.state === "connected" && shown === link) return "live";
  if (shown?.state === "connected") return "live";
  if (!member) return signaling.state === LOST || signaling.sockets > 1 ? "lost" : "joining";
  if (signaling.state !== JOINED && !shown) return "lost";
  if (roomState === "waiting") return wasLive ? "away" : "waiting";
  if (failure) return "failed";
  return shown || link?.wasConnected ? "reconnecting" : "connecting";
}

function refusalState(code) {
  return { "room-full": "full", "room-locked": "locked" }[code] ?? "busy";
}

function render() {
  if (signaling.state === REFUSED) lastRefusal = signaling.detail.code;
  else if (signaling.state === JOINED || signaling.state === STOPPED) lastRefusal = "";
  const state = stateNow();
  const live = state === "live";
  const still = !live && Boolean(stage.stream) && state !== "ended";
  const code = state === "failed" ? failure : stopCode();
  document.body.dataset.state = state;
  show(part("controls"), live);
  show(part("cover"), !live);
  show(part("sound"), live && stage.muted);
  show(part("watchers"), live || state === "reconnecting");
  part("watchers").textContent = `${watchers} watching`;
  part("watchers").setAttribute("aria-label", `${counted(watchers, "viewer")} watching`);
  part("stage").dataset.still = String(still);
  if (!live) show(part("voice"), false);
  renderStatus(state);
  const key = `${state} ${code}`;
  if (key === lastShown) return;
  lastShown = key;
  if (state === "ended") stage.clear();
  if (live) announce(stage.muted ? "Live, without sound yet." : "Live.");
  else renderCover(state, code);
}

function stopCode() {
  if (!ROOM_NAME.test(room)) return "bad-room";
  if (!window.RTCPeerConnection) return "unsupported";
  return signaling.detail.code ?? "";
}

function renderCover(state, code) {
  const words = watchWords(state, code);
  const busy = ["joining", "waiting", "away", "connecting", "reconnecting", "lost"];
  part("cover").dataset.tone = busy.includes(state) ? "busy" : "rest";
  part("cover-title").textContent = words.title;
  part("cover-text").textContent = words.text;
  const hadFocus = document.activeElement === part("cover-action");
  show(part("cover-action"), Boolean(words.action));
  part("cover-action").textContent = words.action ?? "";
  if (hadFocus && !words.action) part("cover-title").focus();
  announce(`${words.title}. ${words.text}`);
}

function renderStatus(state) {
  const [tone, text] = {
    joining: ["", "Joining"],
    lost: ["warn", "No server"],
    waiting: ["", "Waiting"],
    away: ["", "Away"],
    connecting: ["calm", "Connecting"],
    live: ["live", "Live"],
    reconnecting: ["warn", "Reconnecting"],
    failed: ["bad", "No connection"],
    full: ["warn", "Full"],
    locked: ["warn", "Locked"],
    busy: ["warn", "Busy"],
    ended: ["", "Ended"],
    stopped: ["", "Stopped"],
  }[state];
  setPill(part("status"), tone, text);
  document.title = `${text}: ${room} · Turncast`;
}

function renderFigures(reading, before) {
  const path = reading.path === "direct" ? "Direct" : `Relayed · ${reading.path?.toUpperCase()}`;
  part("path").textContent = reading.path ? path : "Connection";
  const seconds = before ? (reading.atMs - before.atMs) / 1000 : 0;
  const kbits = seconds ? ((reading.bytes - before.bytes) * 8) / seconds / 1000 : 0;
  const rows = [
    ["Path", path],
    ["Picture", reading.width ? `${reading.width} × ${reading.height}` : "none"],
    ["Frames a second", reading.fps ? String(Math.round(reading.fps)) : "none"],
    ["Rate", kbits ? `${(kbits / 1000).toFixed(1)} Mbit/s` : "measuring"],
    ["Round trip", reading.roundTripMs === null ? "unknown"
      : `${Math.max(1, Math.round(reading.roundTripMs))} ms`],
    ["Lost packets", lossWords(reading)],
  ];
  part("figures").replaceChildren(...rows.flatMap(([name, value]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

function lossWords({ lost, packets }) {
  return packets ? `${((100 * lost) / (lost + packets)).toFixed(1)} %` : "none";
}

// --- Wiring --------------------------------------------------------------------------------

function wire() {
  part("sound").addEventListener("click", () => setSound(true));
  part("mute").addEventListener("click", () => setSound(stage.muted));
  part("volume").addEventListener("input", (event) => {
    stage.volume(Number(event.target.value) / 100);
    if (stage.muted && event.target.value !== "0") setSound(true);
  });
  part("fullscreen").addEventListener("click", toggleFullscreen);
  show(part("fullscreen"), Boolean(document.fullscreenEnabled || stage.reel.webkitEnterFullscreen));
  part("cover-action").addEventListener("click", act);
  addEventListener("keydown", shortcut);
  addEventListener("pagehide", () => signaling.farewell());
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
}

async function setSound(on) {
  const hadFocus = document.activeElement === part("sound");
  await stage.sound(on);
  part("mute").setAttribute("aria-pressed", String(stage.muted));
  render();
  if (hadFocus) part("mute").focus();
  announce(stage.muted ? "Muted." : "The sound is on.");
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (part("stage").requestFullscreen) part("stage").requestFullscreen().catch(() => {});
  else stage.reel.webkitEnterFullscreen?.();
}

function shortcut(event) {
  const inField = event.target.closest?.("input, select, textarea");
  if (inField || event.ctrlKey || event.metaKey || event.altKey || stateNow() !== "live") return;
  if (event.key === "m") setSound(stage.muted);
  if (event.key === "f") toggleFullscreen();
}

/** The one button of the cover does what the state calls for. */
function act() {
  const state = stateNow();
  if (state === "failed") {
    failure = "";
    rebuilds = 0;
    rebuild();
    render();
  } else if (state === "lost" || state === "full" || state === "locked" || state === "busy") {
    signaling.retryNow();
  } else if (state === "stopped" && signaling.detail.code === "resumed-elsewhere") {
    signaling.start();
  } else if (state === "stopped" && !["bad-room", "unsupported"].includes(stopCode())) {
    location.reload();
  } else {
    location.assign("/");
  }
}
