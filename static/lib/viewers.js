// The broadcaster's side of all links: who watches, which connection each has, and what each of
// them is sent. The hub says who comes and goes; nothing here waits for the socket.

import { Link } from "./link.js";

/** How long a connection is kept whose membership was lost, while its viewer finds the new one. */
const ORPHAN_MS = 30_000;
const MEASURE_MS = 3_000;
/** Each side knows its own way to the relay; the list tells of the one that is harder. */
const NARROWEST_FIRST = ["tls", "tcp", "udp", "direct"];

/** One watcher, as the broadcaster sees it. */
class Viewer {
  constructor(member, name, number) {
    this.member = member;
    this.name = name || `Viewer ${number}`;
    this.number = number;
    this.link = null;
    /** Kept until its successor is connected: make before break. */
    this.previous = null;
    this.reported = { state: "", path: null };
    this.rebuilds = 0;
  }

  /** What the list shows: their report of a failure counts, and a relay on either side. */
  get state() {
    if (this.link.state === "connected") return "connected";
    if (this.reported.state === "failed") return "failed";
    return this.link.wasConnected ? "reconnecting" : "connecting";
  }

  get path() {
    const own = this.link.path;
    return NARROWEST_FIRST.find((path) => path === own || path === this.reported.path) ?? null;
  }
}

export class Viewers {
  #send;
  #sources;
  #forceRelay;
  #onChange;
  #members = new Map();
  #orphans = new Set();
  #counter = 0;

  /**
   * @param {object} options
   * @param {(message: object) => void} options.send
   * @param {() => {audio: MediaStreamTrack|null, video: MediaStreamTrack|null}} options.sources
   * @param {boolean} options.forceRelay
   * @param {(event: {joined?: Viewer, left?: Viewer}) => void} options.onChange
   */
  constructor({ send, sources, forceRelay, onChange }) {
    this.#send = send;
    this.#sources = sources;
    this.#forceRelay = forceRelay;
    this.#onChange = onChange;
    this.count = 0;
    setInterval(() => this.#measure(), MEASURE_MS);
  }

  get list() {
    return [...this.#members.values()].sort((a, b) => a.number - b.number);
  }

  get links() {
    return this.list.flatMap((viewer) => [viewer.link, viewer.previous ?? []].flat());
  }

  /** Everything that the hub says about members and their links. */
  handle(message) {
    if (message.watchers !== undefined) this.count = message.watchers;
    switch (message.t) {
      case "member":
        this.#member(message);
        break;
      case "ice":
        for (const { link, ice } of message.links ?? []) this.#find(link)?.refresh(ice);
        break;
      case "offer":
      case "answer":
      case "candidates":
        this.#find(message.link)?.receive(message);
        break;
      case "restart":
        this.#find(message.link)?.restartAsked();
        break;
      default:
    }
  }

  /** A source changed: every viewer gets the new track on the connection that it has. */
  replace(kind, track) {
    for (const link of this.links) link.replace(kind, track)?.catch(() => {});
  }

  /** The membership came back and what was sent last may be lost. */
  resync() {
    for (const link of this.links) link.resync();
  }

  /** A new membership: the links of the old one play on until their viewers have new ones. */
  orphan() {
    for (const link of this.links) {
      link.detach();
      this.#orphans.add(link);
      setTimeout(() => {
        link.close();
        this.#orphans.delete(link);
      }, ORPHAN_MS);
    }
    this.#members.clear();
    this.count = 0;
    this.#onChange({});
  }

  close() {
    for (const link of [...this.links, ...this.#orphans]) link.close();
    this.#orphans.clear();
    this.#members.clear();
    this.count = 0;
    this.#counter = 0;
    this.#onChange({});
  }

  #member(message) {
    let viewer = this.#members.get(message.member);
    if (message.event === "left") {
      if (!viewer) return;
      viewer.link.close();
      viewer.previous?.close();
      this.#members.delete(message.member);
      this.#onChange({ left: viewer });
      return;
    }
    const isNew = !viewer && Boolean(message.ice);
    if (isNew) {
      this.#counter += 1;
      viewer = new Viewer(message.member, message.name, this.#counter);
      this.#members.set(message.member, viewer);
    }
    if (!viewer) return;
    if (message.ice && viewer.link?.id !== message.link) this.#connect(viewer, message);
    if (message.state) this.#reported(viewer, message);
    this.#onChange(isNew ? { joined: viewer } : {});
  }

  #connect(viewer, { link: id, ice }) {
    viewer.previous?.close();
    viewer.previous = viewer.link;
    viewer.reported = { state: "", path: null };
    viewer.link = new Link({
      id,
      polite: false,
      ice,
      forceRelay: this.#forceRelay,
      send: this.#send,
      onChange: (link) => this.#changed(viewer, link),
      onBeyondRepair: (link) => this.#rebuild(viewer, link),
    });
    viewer.link.addSenders(this.#sources());
  }

  #changed(viewer, link) {
    if (link === viewer.link && link.state === "connected") {
      viewer.rebuilds = 0;
      viewer.reported.state = "";
      viewer.previous?.close();
      viewer.previous = null;
    }
    this.#onChange({});
  }

  /** The viewer leads, and has the last word; we ask once, in case only our side is broken. */
  #rebuild(viewer, link) {
    if (link !== viewer.link || viewer.rebuilds > 0 || viewer.reported.state === "failed") return;
    viewer.rebuilds += 1;
    this.#send({ t: "restart", link: link.id, rebuild: true });
  }

  #reported(viewer, { link, state, path }) {
    if (link && link !== viewer.link.id) return;
    viewer.reported = { state, path: path ?? null };
  }

  #find(id) {
    return this.links.find((link) => link.id === id);
  }

  #measure() {
    for (const { link } of this.#members.values()) {
      if (link.state === "connected") link.measure().catch(() => {});
    }
  }
}
