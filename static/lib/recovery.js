// When a link is in trouble: what to do, and when to stop hoping. ICE often heals by itself, so
// the order is wait, restart ICE, and only then a new connection. The watcher leads, because it
// is the one that misses the picture; the broadcaster acts for itself a little later.

/** Chromium and Firefox report `disconnected` for a lost packet or two. */
const HEAL_MS = 2_500;
/** A first connection: gathering, signaling and checks on a slow line. */
const CONNECT_MS = 15_000;
/** A restart is a round trip of signaling and new checks. */
const RESTART_MS = 8_000;
/** The side that does not lead waits this much longer. */
const FOLLOW_MS = 4_000;
/** Two requests for a restart this close together are one. */
const SAME_RESTART_MS = 3_000;

export class Recovery {
  #link;
  #restart;
  #rebuild;
  #timer = 0;
  #restartedAt = -Infinity;

  constructor({ link, restart, rebuild }) {
    this.#link = link;
    this.#restart = restart;
    this.#rebuild = rebuild;
    this.#after(CONNECT_MS, () => this.#give());
  }

  /** Follows the state of the peer connection. */
  changed(state) {
    const sinceRestart = performance.now() - this.#restartedAt;
    if (state === "connected") {
      this.stop();
      this.#restartedAt = -Infinity;
    } else if (state === "disconnected" && sinceRestart > RESTART_MS) {
      this.#after(HEAL_MS, () => this.#tryRestart());
    } else if (state === "failed") {
      // Without a first connection a restart would only check the same pairs again.
      const hopeless = !this.#link.wasConnected || sinceRestart < RESTART_MS * 2;
      this.#after(0, () => (hopeless ? this.#give() : this.#tryRestart()));
    }
  }

  /** The other side noticed first. */
  asked() {
    if (performance.now() - this.#restartedAt > SAME_RESTART_MS) this.#tryRestart();
  }

  stop() {
    clearTimeout(this.#timer);
  }

  #tryRestart() {
    this.#restartedAt = performance.now();
    this.#after(RESTART_MS, () => this.#give());
    this.#restart();
  }

  #give() {
    this.stop();
    if (this.#link.state !== "connected" && this.#link.state !== "closed") this.#rebuild();
  }

  #after(delayMs, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, delayMs + (this.#link.polite ? 0 : FOLLOW_MS));
  }
}
