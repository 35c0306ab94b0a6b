// The WebSocket to the hub. It joins, keeps the membership alive through a lost socket, and hands
// every message of the hub to the page. It knows nothing of peer connections: media goes on
// while the socket is away, and nobody here closes a connection for it.
//
// The straight line: start() -> hello -> welcome -> joined; socket lost -> lost -> hello with the
// resume token -> welcome again; a `bye` or a refusal that is final -> stopped.

/** Close codes are 4000 plus the place of the word in this closed list. */
export const CODES = [
  "bad-message", "unknown-type", "unsupported-version", "forbidden", "key-required", "bad-key",
  "bad-password", "room-live", "no-room", "room-full", "room-locked", "room-ended",
  "rate-limited", "too-large", "slow-consumer", "draining", "internal",
];

/** What `state` can be. */
export const IDLE = "idle";
export const CONNECTING = "connecting";
export const JOINED = "joined";
export const LOST = "lost";
export const REFUSED = "refused";
export const STOPPED = "stopped";

const QUEUE_MESSAGES_MAX = 256;
const WELCOME_TIMEOUT_MS = 10_000;
const RETRY_FIRST_MS = 400;
const RETRY_MAX_MS = 10_000;
const FULL_ROOM_RETRY_MS = 12_000;
const WAKE_PONG_TIMEOUT_MS = 4_000;

/** A clean close (1000) ends the membership; this one only gives up the socket. */
const CLEAN = 1000;
const GIVEN_UP = 4099;

/** Codes after which trying again by ourselves is no use, whatever `retry` says. */
const FINAL = new Set([
  "unsupported-version", "forbidden", "key-required", "bad-key", "bad-password", "room-ended",
  "room-live",
]);

export class Signaling {
  #hello;
  #onMessage;
  #onState;
  #url;
  #socket = null;
  #resume = null;
  #lastSeq = 0;
  #helloId = "";
  #counter = 0;
  #attempt = 0;
  #queue = [];
  #refusal = null;
  #ping = { intervalMs: 15_000, timeoutMs: 10_000 };
  #retryTimer = 0;
  #pingTimer = 0;
  #deadline = 0;
  #wake = () => this.#woken();

  /**
   * @param {object} options
   * @param {() => object} options.hello role, room and keys, asked anew for each hello
   * @param {(message: object) => void} options.onMessage every message but ping and pong
   * @param {(state: string, detail: object) => void} options.onState
   * @param {string} [options.url]
   */
  constructor({ hello, onMessage, onState, url = socketUrl() }) {
    this.#hello = hello;
    this.#onMessage = onMessage;
    this.#onState = onState;
    this.#url = url;
    this.state = IDLE;
    this.detail = {};
    /** How often a socket was opened; for tests and for the curious. */
    this.sockets = 0;
  }

  /** Joins, or joins again after `stopped`; a stopped membership is not resumed. */
  start() {
    if (this.state !== IDLE && this.state !== STOPPED) return;
    this.#resume = null;
    this.#lastSeq = 0;
    this.#attempt = 0;
    this.#queue = [];
    addEventListener("online", this.#wake);
    document.addEventListener("visibilitychange", this.#wake);
    this.#open();
  }

  /** Sends now, or once the membership is back. A full queue drops what is oldest. */
  send(message) {
    if (this.state === JOINED && this.#say(message)) return;
    if (this.state === STOPPED || this.state === IDLE) return;
    this.#queue.push(message);
    if (this.#queue.length > QUEUE_MESSAGES_MAX) this.#queue.shift();
  }

  /** Ends the membership at once, so that nobody waits for us. */
  leave(reason = "left") {
    this.#say({ t: "bye", reason, action: "stop" });
    this.#stop({ code: reason });
  }

  /**
   * Leaves because the page goes away. Browsers may drop what a socket still has to say then; a
   * request they see through.
   */
  farewell() {
    const token = this.#resume;
    this.leave();
    if (!token) return;
    const headers = { authorization: `Bearer ${token}` };
    // Nobody is there any more to hear of a failure; the hub then waits for the grace.
    fetch("/leave", { method: "POST", keepalive: true, headers }).catch(() => {});
  }

  /** Tries at once instead of waiting for the back-off. */
  retryNow() {
    if (this.state !== LOST && this.state !== REFUSED) return;
    this.#attempt = 0;
    this.#open();
  }

  #open() {
    clearTimeout(this.#retryTimer);
    this.#dropSocket();
    this.#refusal = null;
    this.#change(CONNECTING, {});
    const socket = new WebSocket(this.#url, "turncast.v1");
    this.#socket = socket;
    this.sockets += 1;
    this.#expect(WELCOME_TIMEOUT_MS);
    socket.onopen = () => this.#greet();
    socket.onmessage = (event) => {
      if (this.#socket === socket) this.#receive(event.data);
    };
    socket.onclose = (event) => {
      if (this.#socket === socket) this.#closed(event.code);
    };
  }

  /** Says it now, if the socket is open: it may be closing before we hear of that. */
  #say(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #greet() {
    this.#helloId = this.#nextId();
    const hello = { t: "hello", id: this.#helloId, versions: [1], ...this.#hello() };
    if (this.#resume) hello.resume = { token: this.#resume, last_seq: this.#lastSeq };
    this.#say(hello);
  }

  #receive(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (this.state === JOINED) this.#alive();
    // A welcome takes no part in replay; anything else is handled once, in order.
    if (typeof message.seq === "number" && message.t !== "welcome") {
      if (message.seq <= this.#lastSeq) return;
      this.#lastSeq = message.seq;
    }
    switch (message.t) {
      case "pong":
        return;
      case "ping":
        this.send({ t: "pong", re: message.id });
        return;
      case "welcome":
        this.#welcome(message);
        return;
      case "bye":
        this.#onMessage(message);
        this.#bye(message);
        return;
      case "error":
        if (this.state !== JOINED) this.#refusal = message;
        this.#onMessage(message);
        return;
      default:
        this.#onMessage(message);
    }
  }

  #welcome(message) {
    if (!message.resumed) this.#lastSeq = message.seq ?? 0;
    this.#resume = message.resume ?? null;
    this.#attempt = 0;
    if (message.ping) {
      this.#ping.intervalMs = message.ping.interval_secs * 1000;
      this.#ping.timeoutMs = message.ping.timeout_secs * 1000;
    }
    // What was queued belongs to links of the old membership unless that membership goes on.
    const queued = message.resumed ? this.#queue : [];
    this.#queue = [];
    this.#change(JOINED, { resumed: message.resumed === true });
    this.#alive();
    this.#onMessage(message);
    for (const kept of queued) this.send(kept);
  }

  #bye(message) {
    if (message.action === "stop") {
      this.#stop({ code: message.reason });
      return;
    }
    if (message.action === "rejoin") this.#resume = null;
    this.#dropSocket();
    this.#backOff(message.retry_after_ms ?? 0, { code: message.reason });
  }

  #closed(closeCode) {
    const code = this.#refusal?.code ?? CODES[closeCode - 4000];
    const refused = this.#refusal ?? (code && this.state !== JOINED ? { code } : null);
    this.#dropSocket();
    if (!refused) {
      this.#backOff(0, { code });
      return;
    }
    const detail = { code, message: refused.message };
    if (refused.retry === false || FINAL.has(code)) {
      this.#stop(detail);
      return;
    }
    // A token that the hub refuses would be refused again.
    this.#resume = null;
    const wait = code === "room-full" || code === "room-locked"
      ? FULL_ROOM_RETRY_MS * (1 + Math.random())
      : 5_000;
    this.#backOff(wait, detail, REFUSED);
  }

  /** Waits a while, longer each time, never in step with the other pages. */
  #backOff(atLeastMs, detail, state = LOST) {
    const step = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.#attempt);
    const waitMs = atLeastMs + step * (0.5 + Math.random() / 2);
    this.#attempt += 1;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#open(), waitMs);
    this.#change(state, { ...detail, waitMs });
  }

  /** Something came in: the socket lives. The next question is due after the interval. */
  #alive() {
    clearTimeout(this.#deadline);
    this.#deadline = 0;
    clearTimeout(this.#pingTimer);
    this.#pingTimer = setTimeout(
      () => this.#ask(this.#ping.timeoutMs),
      this.#ping.intervalMs,
    );
  }

  #ask(timeoutMs) {
    if (this.state !== JOINED) return;
    this.#say({ t: "ping", id: this.#nextId() });
    if (!this.#deadline) this.#expect(timeoutMs);
  }

  /** Gives the socket up when nothing comes in until then. */
  #expect(timeoutMs) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => {
      this.#dropSocket();
      this.#backOff(0, {});
    }, timeoutMs);
  }

  /** The network or the page came back: find out now, not at the next interval. */
  #woken() {
    if (document.visibilityState === "hidden") return;
    if (this.state === JOINED) this.#ask(WAKE_PONG_TIMEOUT_MS);
    else if (this.state === LOST) this.retryNow();
  }

  #stop(detail) {
    removeEventListener("online", this.#wake);
    document.removeEventListener("visibilitychange", this.#wake);
    clearTimeout(this.#retryTimer);
    this.#dropSocket(CLEAN);
    this.#resume = null;
    this.#queue = [];
    this.#change(STOPPED, detail);
  }

  #dropSocket(closeCode = GIVEN_UP) {
    clearTimeout(this.#deadline);
    clearTimeout(this.#pingTimer);
    this.#deadline = 0;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(closeCode);
    }
  }

  #change(state, detail) {
    this.state = state;
    this.detail = detail;
    this.#onState(state, detail);
  }

  #nextId() {
    this.#counter += 1;
    return `c${this.#counter}`;
  }
}

function socketUrl() {
  const url = new URL("/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
