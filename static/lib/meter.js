// The level of the microphone as a ladder of lamps. It measures the track that is sent, so a
// muted microphone shows nothing, and says when nothing has been heard for a while.

const LAMPS = 20;
const FLOOR_DB = -60;
/** A room is never this quiet for this long unless something is wrong. */
const SILENCE_DB = -58;
const SILENCE_MS = 6_000;

export class Meter {
  #element;
  #onSilence;
  #context = null;
  #analyser = null;
  #source = null;
  #samples = null;
  #frame = 0;
  #lit = 0;
  #heardAt = 0;
  #silent = false;

  /** @param {HTMLElement} element  @param {(silent: boolean) => void} onSilence */
  constructor(element, onSilence) {
    this.#element = element;
    this.#onSilence = onSilence;
    for (let i = 0; i < LAMPS; i += 1) element.append(document.createElement("i"));
    // Without a gesture on the page a browser may hold sound processing back.
    for (const gesture of ["pointerdown", "keydown"]) {
      addEventListener(gesture, () => this.#context?.resume(), { passive: true });
    }
  }

  /** Measures this track from now on; null measures nothing. */
  follow(track) {
    this.#source?.disconnect();
    this.#source = null;
    cancelAnimationFrame(this.#frame);
    this.#light(0);
    this.#hush(false);
    if (!track) return;
    if (!this.#context) {
      this.#context = new AudioContext();
      this.#analyser = this.#context.createAnalyser();
      this.#analyser.fftSize = 1024;
      this.#samples = new Float32Array(this.#analyser.fftSize);
    }
    this.#source = this.#context.createMediaStreamSource(new MediaStream([track]));
    this.#source.connect(this.#analyser);
    this.#context.resume();
    this.#heardAt = performance.now();
    this.#measure(track);
  }

  #measure(track) {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    const level = 10 * Math.log10(sum / this.#samples.length + 1e-12);
    const now = performance.now();
    const deaf = this.#context.state !== "running" || !track.enabled || track.muted;
    if (level > SILENCE_DB || deaf) this.#heardAt = now;
    this.#hush(now - this.#heardAt > SILENCE_MS);
    this.#show(Math.max(0, Math.min(1, (level - FLOOR_DB) / -FLOOR_DB)));
    this.#frame = requestAnimationFrame(() => this.#measure(track));
  }

  #show(level) {
    // Rises at once, falls slowly: a person reads peaks.
    const wanted = Math.round(level * LAMPS);
    this.#light(wanted >= this.#lit ? wanted : this.#lit - 1);
  }

  #light(lit) {
    if (lit === this.#lit) return;
    this.#lit = lit;
    const lamps = this.#element.children;
    for (let i = 0; i < LAMPS; i += 1) lamps[i].classList.toggle("lit", i < lit);
    this.#element.setAttribute("aria-valuenow", String(Math.round((lit / LAMPS) * 100)));
  }

  #hush(silent) {
    if (silent === this.#silent) return;
    this.#silent = silent;
    this.#onSilence(silent);
  }
}
