// One link: one peer connection, from its first candidate to its end. A connection that is beyond
// repair is not rebuilt here; the hub announces a new link, and the page makes a new Link.
//
// It negotiates by the perfect-negotiation pattern: either side may offer, the polite one (the
// watcher) gives way. Everything that changes descriptions runs one after another in `#chain`, so
// a candidate never overtakes the description that it belongs to.

import { Recovery } from "./recovery.js";
import { usableServers } from "./servers.js";
import { readStats } from "./stats.js";

const BUNDLE_MS = 50;
const BUFFERED_CANDIDATES_MAX = 64;

export class Link {
  #ice;
  #forceRelay;
  #send;
  #onChange;
  #chain = Promise.resolve();
  #outgoing = [];
  #bundleTimer = 0;
  #gathered = [];
  #buffered = [];
  #ignoreOffer = false;
  #recovery;

  /**
   * @param {object} options
   * @param {string} options.id the hub's name of the link
   * @param {boolean} options.polite true for the watcher
   * @param {object} options.ice servers and policy, as the hub sends them
   * @param {boolean} options.forceRelay whether this page was asked to use the relay only
   * @param {(message: object) => void} options.send to the hub
   * @param {(link: Link) => void} options.onChange state or path changed
   * @param {(track: MediaStreamTrack) => void} [options.onTrack]
   * @param {(link: Link) => void} options.onBeyondRepair an ICE restart did not help
   */
  constructor({ id, polite, ice, forceRelay, send, onChange, onTrack, onBeyondRepair }) {
    this.id = id;
    this.polite = polite;
    this.state = "new";
    this.path = null;
    this.wasConnected = false;
    /** Why no relayed candidate came, when the browser said so. */
    this.relayError = null;
    this.#ice = ice;
    this.#forceRelay = forceRelay;
    this.#send = send;
    this.#onChange = onChange;
    this.pc = new RTCPeerConnection(this.#configuration());
    this.#recovery = new Recovery({
      link: this,
      restart: () => this.restart(),
      rebuild: () => onBeyondRepair(this),
    });
    this.#listen(onTrack);
  }

  /** Adds a sender for each kind, with a track or without, so that a source can change later. */
  addSenders({ audio, video }) {
    const streams = [new MediaStream()];
    this.senders = {
      audio: this.pc.addTransceiver(audio ?? "audio", { direction: "sendonly", streams }).sender,
      video: this.pc.addTransceiver(video ?? "video", { direction: "sendonly", streams }).sender,
    };
  }

  /** Changes what is sent without a new negotiation. */
  replace(kind, track) {
    return this.senders?.[kind].replaceTrack(track);
  }

  /** Keeps the newest credentials for the next restart. */
  refresh(ice) {
    this.#ice = ice;
    if (this.pc.signalingState !== "closed") this.pc.setConfiguration(this.#configuration());
  }

  /** Takes an offer, an answer or candidates of the other side. */
  receive(message) {
    if (message.t === "candidates") {
      for (const candidate of message.candidates) this.#queue(() => this.#addCandidate(candidate));
    } else {
      this.#queue(() => this.#describe({ type: message.t, sdp: message.sdp }));
    }
  }

  /** The other side asks for an ICE restart; twice in a row is once. */
  restartAsked() {
    this.#recovery?.asked();
  }

  /** Gathers again with the latest credentials; the polite side lets the other one offer. */
  restart() {
    if (this.pc.signalingState === "closed") return;
    this.pc.setConfiguration(this.#configuration());
    if (this.polite) {
      this.#send({ t: "restart", link: this.id });
      return;
    }
    this.pc.restartIce();
    if (this.pc.signalingState !== "stable") this.#queue(() => this.#offer());
  }

  /** The socket was away: what was said last may be lost, so it is said again. */
  resync() {
    if (this.state === "connected" || this.state === "closed") return;
    const { localDescription, signalingState } = this.pc;
    if (signalingState === "have-local-offer") this.#say(localDescription);
    if (this.#gathered.length) this.#sendCandidates(this.#gathered);
  }

  /** Plays on without the hub, which knows this link no more: no repair and no word of it. */
  detach() {
    this.#recovery?.stop();
    this.#recovery = null;
    this.#send = () => {};
  }

  /** Says "I am done" to nobody: the hub knows, and the other side hears of it from there. */
  close() {
    if (this.state === "closed") return;
    clearTimeout(this.#bundleTimer);
    this.#recovery?.stop();
    this.pc.close();
    this.state = "closed";
  }

  /** Reads the statistics and keeps the path. */
  async measure() {
    const reading = await readStats(this.pc);
    if (reading.path && reading.path !== this.path && this.state === "connected") {
      this.path = reading.path;
      this.#onChange(this);
    }
    return reading;
  }

  #configuration() {
    const relayOnly = this.#forceRelay || this.#ice.policy === "relay";
    return {
      iceServers: usableServers(this.#ice.servers),
      iceTransportPolicy: relayOnly ? "relay" : "all",
      bundlePolicy: "max-bundle",
      iceCandidatePoolSize: 0,
    };
  }

  #listen(onTrack) {
    const { pc } = this;
    pc.onnegotiationneeded = () => this.#queue(() => this.#offer());
    pc.onicecandidate = ({ candidate }) => this.#gather(candidate);
    pc.onicecandidateerror = (event) => {
      this.relayError = { code: event.errorCode, url: event.url };
    };
    pc.onconnectionstatechange = () => this.#connectionChanged();
    pc.ontrack = ({ track }) => onTrack?.(track);
  }

  #connectionChanged() {
    if (this.state === "closed") return;
    this.state = this.pc.connectionState;
    if (this.state === "connected") this.wasConnected = true;
    this.#recovery?.changed(this.state);
    this.#onChange(this);
    if (this.state === "connected") this.measure().catch(() => {});
  }

  /** One step after another; a step that fails leaves the next one its turn. */
  #queue(step) {
    this.#chain = this.#chain.then(() => (this.state === "closed" ? undefined : step()))
      .catch((error) => {
        if (this.state !== "closed") console.debug("turncast: negotiation", error);
      });
  }

  async #offer() {
    if (this.pc.signalingState === "have-remote-offer") return;
    await this.pc.setLocalDescription();
    this.#say(this.pc.localDescription);
  }

  async #describe(description) {
    const { pc } = this;
    if (description.type === "answer" && pc.signalingState !== "have-local-offer") return;
    const collision = description.type === "offer" && pc.signalingState !== "stable";
    this.#ignoreOffer = collision && !this.polite;
    if (this.#ignoreOffer) return;
    await pc.setRemoteDescription(description);
    const buffered = this.#buffered;
    this.#buffered = [];
    if (description.type === "offer") {
      await pc.setLocalDescription();
      this.#say(pc.localDescription);
    }
    for (const candidate of buffered) await this.#addCandidate(candidate);
  }

  #say({ type, sdp }) {
    this.#send({ t: type, link: this.id, sdp });
  }

  /** A candidate waits until the description of its own generation is there. */
  async #addCandidate(candidate) {
    const { remoteDescription } = this.pc;
    if (!remoteDescription || !ofGeneration(candidate, remoteDescription.sdp)) {
      this.#buffered.push(candidate);
      if (this.#buffered.length > BUFFERED_CANDIDATES_MAX) this.#buffered.shift();
      return;
    }
    try {
      await this.pc.addIceCandidate(candidate ?? undefined);
    } catch (error) {
      if (!this.#ignoreOffer && candidate) console.debug("turncast: candidate", error);
    }
  }

  /** Bundles what comes within 50 ms, because gathering comes in bursts; the end goes at once. */
  #gather(candidate) {
    if (candidate?.candidate === "") return;
    const plain = candidate && {
      candidate: candidate.candidate,
      sdpMid: candidate.sdpMid,
      sdpMLineIndex: candidate.sdpMLineIndex,
      usernameFragment: candidate.usernameFragment,
    };
    this.#remember(plain);
    this.#outgoing.push(plain);
    if (!plain) this.#flush();
    else if (!this.#bundleTimer) this.#bundleTimer = setTimeout(() => this.#flush(), BUNDLE_MS);
  }

  /** Keeps the candidates of the newest generation for `resync`. */
  #remember(plain) {
    const first = this.#gathered[0];
    if (plain && first && first.usernameFragment !== plain.usernameFragment) this.#gathered = [];
    if (plain && this.#gathered.at(-1) === null) this.#gathered = [];
    if (plain || this.#gathered.length) this.#gathered.push(plain);
  }

  #flush() {
    clearTimeout(this.#bundleTimer);
    this.#bundleTimer = 0;
    if (this.#outgoing.length) this.#sendCandidates(this.#outgoing.splice(0));
  }

  #sendCandidates(candidates) {
    this.#send({ t: "candidates", link: this.id, candidates });
  }
}

/** Whether a candidate belongs to this description; without a fragment it belongs to any. */
function ofGeneration(candidate, sdp) {
  const fragment = candidate?.usernameFragment;
  return !fragment || sdp.includes(`a=ice-ufrag:${fragment}\r`)
    || sdp.includes(`a=ice-ufrag:${fragment}\n`);
}
