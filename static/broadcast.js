// The broadcaster's page. It opens the sources, goes live, shows who watches, and ends.
//
// States, as in <body data-state>: loading, asking, ready, blocked (no source at all), insecure,
// connecting, live, ended. A reload in the middle of a broadcast comes back by itself: the tab
// keeps the room and the key that proves it is ours.

import { keepAwake } from "./lib/awake.js";
import { expose } from "./lib/inspect.js";
import { canShareScreen, HEIGHTS, listDevices, NONE, SCREEN, secureEnough, Sources }
  from "./lib/media.js";
import { Meter } from "./lib/meter.js";
import { JOINED, LOST, Signaling, STOPPED } from "./lib/signaling.js";
import { announce, clock, copyText, counted, fromTemplate, onlyThisComputer, part, relayForced,
  ROOM_NAME, setPill, show } from "./lib/ui.js";
import { Viewers } from "./lib/viewers.js";
import { broadcastRefusal, endedWords, pathWords, troubleWords } from "./lib/words.js";

const KEPT_BROADCAST = "turncast.broadcast";
const KEPT_KEY = "turncast.key";
const KEPT_SOURCES = "turncast.sources";
/** A socket that comes back within this time is nobody's business. */
const TELL_LOST_MS = 3_000;

const forceRelay = relayForced();
const preview = part("preview");
const sources = new Sources({ onChange: sourceChanged, onEnded: sourceEnded });
const meter = new Meter(part("level"), silenceChanged);
const viewers = new Viewers({
  send: (message) => signaling.send(message),
  sources: () => ({ audio: sources.audio, video: paused ? null : sources.video }),
  forceRelay,
  onChange: renderViewers,
});
const signaling = new Signaling({ hello, onMessage: handle, onState: signalingChanged });

let state = "loading";
let paused = false;
let broadcast = kept(KEPT_BROADCAST);
let member = "";
let policy = forceRelay ? "relay" : "all";
let lostTimer = 0;
let clockTimer = 0;
let endAsked = false;
let lastCamera = "";

expose({
  page: "broadcast",
  get state() { return state; },
  get signaling() { return signaling.state; },
  get sockets() { return signaling.sockets; },
  get room() { return broadcast?.room ?? ""; },
  get member() { return member; },
  get watchers() { return viewers.count; },
  get links() { return viewers.links; },
});

// --- Start ---------------------------------------------------------------------------------

takeKey();
wire();
start();

/** The key leaves the address bar at once, so that nobody copies it with the address. */
function takeKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key) {
    keep(KEPT_KEY, key);
    history.replaceState(null, "", location.pathname + location.search);
  }
}

async function start() {
  addressNote();
  show(part("share"), canShareScreen());
  for (const height of HEIGHTS) part("height").add(new Option(`${height}p`, String(height)));
  const choices = kept(KEPT_SOURCES) ?? {};
  sources.height = HEIGHTS.includes(choices.height) ? choices.height : 720;
  part("height").value = String(sources.height);
  await openSources(choices);
  if (broadcast && (sources.video || sources.audio)) goLive();
}

/** Asks for camera and microphone, and falls back to what there is. */
async function openSources(choices = {}) {
  if (!secureEnough()) {
    setState("insecure");
    coverWords(troubleWords({ code: "insecure" }, "video"));
    await listSources();
    return;
  }
  setState("asking");
  coverWords({
    title: "Allow camera and microphone",
    text: "Your browser is asking. Choose Allow; nobody sees or hears you before you go live.",
  });
  let trouble = await sources.open(choices);
  // What was chosen the last time may be unplugged by now; anything else is better than nothing.
  const gone = [trouble.video, trouble.audio].some((each) => each?.code === "gone");
  if (gone) trouble = await sources.open();
  await listSources();
  const nothing = !sources.video && !sources.audio;
  if (nothing && (trouble.video || trouble.audio)) blocked(trouble);
  else ready(trouble);
}

function ready({ video, audio }) {
  setState("ready");
  const words = (video && troubleWords(video, "video")) || (audio && troubleWords(audio, "audio"));
  if (!words) {
    notice("");
    return;
  }
  const rest = video ? "You can go live by voice alone." : "Viewers will see you without sound.";
  notice(`${words.title}. ${rest} ${words.text}`);
}

function blocked({ video, audio }) {
  setState("blocked");
  const words = troubleWords(video || audio, video ? "video" : "audio");
  if (video?.code === "refused" && audio) {
    words.title = "Camera and microphone are blocked";
    words.text = words.text.replace("the camera to", "camera and microphone to");
  } else if (video?.code === "missing" && audio?.code === "missing") {
    words.title = "No camera and no microphone were found";
    words.text = "Plug one in and try again, or share your screen instead.";
  }
  coverWords(words, { again: true, voice: Boolean(video) && audio?.code !== "missing" });
}

// --- Sources -------------------------------------------------------------------------------

function sourceChanged(kind, track) {
  if (kind === "video") {
    paused = false;
    preview.srcObject = track ? new MediaStream([track]) : null;
    preview.classList.toggle("mirror", sources.picture !== SCREEN);
  } else {
    meter.follow(track);
    if (track) track.enabled = part("mute").getAttribute("aria-pressed") !== "true";
  }
  viewers.replace(kind, track);
  renderSources();
}

/** A screen is chosen anew each time: no browser gives it to a page that was reloaded. */
function rememberSources() {
  keep(KEPT_SOURCES, {
    camera: sources.picture === SCREEN ? lastCamera : sources.picture,
    microphone: sources.sound,
    height: sources.height,
  });
}

async function sourceEnded(kind, wasScreen) {
  if (wasScreen) {
    await choosePicture(lastCamera);
    announce("The screen is not shared any more.");
    return;
  }
  const words = troubleWords({ code: "gone" }, kind);
  notice(`${words.title}. ${words.text}`);
  await listSources();
}

async function choosePicture(choice) {
  const before = sources.picture;
  if (choice === SCREEN && before !== SCREEN) lastCamera = before;
  try {
    await sources.setPicture(choice);
    notice("");
    rememberSources();
    if (state === "blocked") setState("ready");
  } catch (trouble) {
    // A person who closes the browser's own chooser has changed his mind; that is no failure.
    const changedMind = choice === SCREEN && trouble.code === "refused";
    const words = troubleWords(trouble, "video");
    if (!changedMind) notice(`${words.title}. ${words.text}`);
  }
  await listSources();
}

async function chooseSound(choice) {
  try {
    await sources.setSound(choice);
    notice("");
    rememberSources();
    if (state === "blocked") setState("ready");
  } catch (trouble) {
    const words = troubleWords(trouble, "audio");
    notice(`${words.title}. ${words.text}`);
  }
  await listSources();
}

/** Fills both choosers with the devices that are there now. */
async function listSources() {
  const { cameras, microphones } = await listDevices();
  fillChooser(part("camera"), cameras, "No picture (voice only)", sources.picture);
  if (sources.picture === SCREEN) {
    part("camera").add(new Option("Screen", SCREEN, false, true), 0);
  }
  fillChooser(part("microphone"), microphones, "No sound", sources.sound);
  renderSources();
}

function fillChooser(chooser, devices, none, chosen) {
  chooser.replaceChildren(
    ...devices.map(({ id, name }) => new Option(name, id)),
    new Option(none, NONE),
  );
  chooser.value = chosen;
  // Before it was allowed, a device has no name to be chosen by.
  if (chooser.selectedIndex < 0) chooser.value = NONE;
}

function renderSources() {
  const sharing = sources.picture === SCREEN;
  const usable = secureEnough() && state !== "asking" && state !== "ended";
  for (const id of ["camera", "microphone", "share"]) part(id).disabled = !usable;
  part("height").disabled = !usable || sharing || !sources.video;
  part("mute").disabled = !sources.audio;
  part("pause").disabled = !sources.video;
  part("pause").setAttribute("aria-pressed", String(paused));
  part("share").setAttribute("aria-pressed", String(sharing));
  part("share").lastElementChild.textContent = sharing ? "Stop sharing" : "Share screen";
  part("go").disabled = !(sources.video || sources.audio) || state === "connecting";
  renderCover();
}

/** The cover lies over the preview whenever there is no picture to see. */
function renderCover() {
  const open = ["ready", "connecting", "live"].includes(state);
  show(part("cover"), !open || !sources.video || paused);
  show(part("corner"), open);
  setPill(part("corner"), ...(state === "live" ? ["live", "On air"] : ["", "Preview"]));
  if (!open) return;
  if (paused) {
    coverWords({
      title: "The picture is paused",
      text: "Viewers hear you and see nothing new. Press Pause picture again to go on.",
    });
  } else if (!sources.video && sources.audio) {
    coverWords({
      title: "Voice only",
      text: "Viewers hear you. Choose a camera below, or share your screen, to be seen as well.",
    });
  } else if (!sources.video) {
    coverWords({
      title: "No picture and no sound",
      text: "Choose a camera, a microphone or your screen below.",
    });
  }
}

function coverWords({ title, text }, { again = false, voice = false } = {}) {
  part("cover-title").textContent = title;
  part("cover-text").textContent = text;
  show(part("cover-again"), again);
  show(part("cover-voice"), voice);
  if (state !== "ready" && state !== "live") announce(`${title}. ${text}`);
}

function notice(text) {
  show(part("source-notice"), Boolean(text));
  part("source-notice-text").textContent = text;
  if (text) announce(text);
}

function silenceChanged(isSilent) {
  const text = "Nothing is heard from this microphone. Check that it is switched on, or choose "
    + "another one.";
  const shown = part("source-notice-text").textContent;
  if (isSilent && !shown) notice(text);
  else if (!isSilent && shown === text) notice("");
}

function toggleMute() {
  const muted = part("mute").getAttribute("aria-pressed") !== "true";
  part("mute").setAttribute("aria-pressed", String(muted));
  if (sources.audio) sources.audio.enabled = !muted;
  announce(muted ? "Viewers do not hear you." : "Viewers hear you.");
}

/** A paused picture costs no encoder and no uplink, unlike a black one. */
function togglePause() {
  paused = !paused;
  viewers.replace("video", paused ? null : sources.video);
  renderSources();
  announce(paused ? "The picture is paused." : "The picture goes on.");
}

// --- Live ----------------------------------------------------------------------------------

function hello() {
  const key = kept(KEPT_KEY);
  return {
    role: "broadcaster",
    ...(broadcast?.room && { room: broadcast.room }),
    ...(broadcast?.room_key && { room_key: broadcast.room_key }),
    ...(key && { key }),
  };
}

function goLive() {
  show(part("setup-mistake"), false);
  endAsked = false;
  setState("connecting");
  if (signaling.state === STOPPED || signaling.state === "idle") signaling.start();
  else signaling.retryNow();
}

function submitted(event) {
  event.preventDefault();
  const room = part("room").value.trim();
  const valid = !room || ROOM_NAME.test(room);
  part("room").setAttribute("aria-invalid", String(!valid));
  show(part("room-mistake"), !valid);
  if (!valid) {
    part("room-mistake").textContent = "Use up to 64 letters, digits, - or _, without spaces.";
    part("room").focus();
    return;
  }
  const pasted = part("key").value.trim();
  if (pasted) keep(KEPT_KEY, /#key=([^&\s]+)/.exec(pasted)?.[1] ?? pasted);
  broadcast = broadcast?.room_key && (!room || room === broadcast.room)
    ? broadcast
    : { ...(room && { room }) };
  goLive();
}

function handle(message) {
  switch (message.t) {
    case "welcome":
      welcomed(message);
      break;
    case "error":
      if (signaling.state === JOINED) console.debug("turncast: hub", message.code);
      break;
    case "ice":
      if (message.ice) policy = message.ice.policy ?? policy;
      viewers.handle(message);
      break;
    default:
      viewers.handle(message);
  }
  renderViewers({});
}

function welcomed(message) {
  member = message.member;
  if (!message.resumed) viewers.orphan();
  viewers.count = message.room.watchers ?? 0;
  policy = forceRelay ? "relay" : message.ice?.policy ?? "all";
  broadcast = {
    room: message.room.name,
    room_key: message.room_key ?? broadcast?.room_key,
    startedAt: broadcast?.startedAt ?? Date.now(),
  };
  keep(KEPT_BROADCAST, broadcast);
  addressNote();
  part("watch-link").value = new URL(`/watch/${broadcast.room}`, location.origin).href;
  show(part("local-only"), onlyThisComputer());
  if (message.resumed) viewers.resync();
  if (state === "live") return;
  setState("live");
  part("live-title").focus();
  announce("You are live. The watch link is ready to be copied.");
}

function signalingChanged(next, detail) {
  if (next === JOINED || next === STOPPED) {
    clearTimeout(lostTimer);
    lostTimer = 0;
    show(part("lost"), false);
  }
  if (next === STOPPED) {
    stopped(detail);
  } else if (state === "connecting" && next !== "connecting") {
    setupMistake(next === LOST
      ? "The server does not answer. This page keeps trying; check your network if it lasts."
      : broadcastRefusal(detail.code, detail.message));
  } else if (state === "live" && next === LOST && !lostTimer) {
    lostTimer = setTimeout(() => show(part("lost"), true), TELL_LOST_MS);
  }
  renderStatus();
}

/** The membership is over: refused, ended, or taken over. */
function stopped({ code, message }) {
  if (code === "left") return;
  if (state === "live" || endAsked) {
    finish(code);
    return;
  }
  // A key or a room that was refused is not tried again by itself.
  if (code === "bad-key") forget(KEPT_KEY);
  if (broadcast?.room_key) broadcast = { room: broadcast.room };
  forget(KEPT_BROADCAST);
  setState("ready");
  const keyWanted = code === "key-required" || code === "bad-key";
  if (keyWanted) show(part("key-field"), true);
  setupMistake(broadcastRefusal(code, message));
  if (keyWanted) part("key").focus();
  else if (code === "room-live") part("room").focus();
}

function setupMistake(text) {
  part("setup-mistake-text").textContent = text;
  show(part("setup-mistake"), true);
}

function askEnd() {
  part("confirm-text").textContent = viewers.count
    ? `${counted(viewers.count, "viewer")} will be told, and the link stops working.`
    : "The link stops working.";
  part("confirm").showModal();
}

function end() {
  part("confirm").close();
  endAsked = true;
  if (signaling.state === JOINED) signaling.send({ t: "end" });
  else signaling.leave("ended");
}

function finish(code) {
  const lasted = clock(Date.now() - (broadcast?.startedAt ?? Date.now()));
  viewers.close();
  sources.stop();
  broadcast = null;
  forget(KEPT_BROADCAST);
  setState("ended");
  part("ended-text").textContent = `It lasted ${lasted}. ${endedWords(code)}`;
  coverWords({ title: "Off air", text: "The camera and the microphone are off." });
  part("ended-title").focus();
}

async function again() {
  part("room").value = "";
  show(part("setup-mistake"), false);
  await openSources(kept(KEPT_SOURCES) ?? {});
  part("go").focus();
}

// --- Rendering -----------------------------------------------------------------------------

function setState(next) {
  state = next;
  document.body.dataset.state = next;
  show(part("setup"), next !== "live" && next !== "ended");
  show(part("live"), next === "live");
  show(part("ended"), next === "ended");
  show(part("clock"), next === "live");
  keepAwake(next === "live");
  part("go-text").textContent = next === "connecting" ? "Going live" : "Go live";
  clearInterval(clockTimer);
  if (next === "live") {
    clockTimer = setInterval(renderClock, 1000);
    renderClock();
  }
  renderStatus();
  renderSources();
}

function renderStatus() {
  const away = state === "live" && signaling.state !== JOINED;
  const [tone, text] = {
    loading: ["", "Loading"],
    asking: ["", "Off air"],
    ready: ["", "Off air"],
    blocked: ["", "Off air"],
    insecure: ["bad", "Not secure"],
    connecting: ["warn", "Going live"],
    live: away ? ["warn", "Server lost"] : ["live", "On air"],
    ended: ["", "Ended"],
  }[state];
  setPill(part("status"), tone, text);
  document.title = state === "live" ? `On air: ${broadcast.room} · Turncast`
    : "Broadcast · Turncast";
}

function renderClock() {
  part("clock").textContent = clock(Date.now() - broadcast.startedAt);
}

function renderViewers({ joined, left }) {
  if (joined) announce(`${joined.name} joined.`);
  if (left) announce(`${left.name} left.`);
  const list = viewers.list;
  const rows = part("viewers");
  rows.replaceChildren(...list.map((viewer) => {
    const row = fromTemplate("viewer");
    const [mark, name, pill] = row.children;
    mark.textContent = String(viewer.number);
    name.textContent = viewer.name;
    setPill(pill, ...pathWords(viewer.state, viewer.path));
    return row;
  }));
  part("count").textContent = String(viewers.count);
  show(part("nobody"), list.length === 0);
}

function addressNote() {
  const text = policy === "relay"
    ? "Everything goes through this server's relay: viewers do not see your network address."
    : "Viewers who connect directly can see your network address.";
  for (const note of document.querySelectorAll(".address-note")) note.textContent = text;
}

// --- Wiring --------------------------------------------------------------------------------

function wire() {
  part("setup").addEventListener("submit", submitted);
  part("camera").addEventListener("change", (event) => choosePicture(event.target.value));
  part("microphone").addEventListener("change", (event) => chooseSound(event.target.value));
  part("height").addEventListener("change", (event) => {
    sources.setHeight(Number(event.target.value));
    rememberSources();
  });
  part("mute").addEventListener("click", toggleMute);
  part("pause").addEventListener("click", togglePause);
  part("share").addEventListener("click", () => {
    choosePicture(sources.picture === SCREEN ? lastCamera : SCREEN);
  });
  part("cover-again").addEventListener("click", () => openSources({}));
  part("cover-voice").addEventListener("click", () => openSources({ camera: NONE }));
  part("copy").addEventListener("click", copyLink);
  part("watch-link").addEventListener("focus", (event) => event.target.select());
  part("end").addEventListener("click", askEnd);
  part("confirm-no").addEventListener("click", () => part("confirm").close());
  part("confirm-yes").addEventListener("click", end);
  part("again").addEventListener("click", again);
  navigator.mediaDevices?.addEventListener("devicechange", listSources);
  addEventListener("pagehide", () => signaling.farewell());
  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
}

async function copyLink() {
  const copied = await copyText(part("watch-link").value, part("watch-link"));
  part("copy-text").textContent = copied ? "Copied" : "Press Ctrl+C";
  announce(copied ? "The watch link is copied." : "Press Control and C to copy the link.");
  setTimeout(() => {
    part("copy-text").textContent = "Copy the link";
  }, 2_000);
}

// --- What the tab keeps over a reload ------------------------------------------------------

function kept(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name));
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Without storage a reload starts anew; nothing else depends on it.
  }
}

function forget(name) {
  try {
    sessionStorage.removeItem(name);
  } catch {
    // See `keep`.
  }
}
