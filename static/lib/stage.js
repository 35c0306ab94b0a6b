// Where the watcher's picture is shown. Two video elements take turns, so that a new connection
// is on screen before the old one goes: the next one plays unseen until it has a picture.
//
// A stream without a picture must still be heard. A media element waits for the first frame of a
// video track before it plays anything, so the picture joins the stream only when it arrives.

export class Stage {
  #reels;
  #showing = 0;
  #shown = null;
  #coming = null;
  #volume = 1;
  #muted = true;

  /** @param {HTMLElement} element with two `.reel` elements */
  constructor(element) {
    this.element = element;
    this.#reels = [...element.querySelectorAll(".reel")];
  }

  get muted() {
    return this.#muted;
  }

  /** What is on screen; null before the first. */
  get stream() {
    return this.#shown;
  }

  /** The element that is on screen. */
  get reel() {
    return this.#reels[this.#showing];
  }

  /** Puts a stream on screen as soon as it plays. @returns {Promise<void>} it is on screen */
  async present(stream) {
    if (stream === this.#shown || stream === this.#coming) return;
    this.#coming = stream;
    const first = !this.#shown;
    const next = first ? this.#showing : 1 - this.#showing;
    const reel = this.#reels[next];
    reel.muted = true;
    reel.srcObject = stream;
    const playing = new Promise((resolve) => {
      reel.addEventListener("playing", resolve, { once: true });
    });
    await Promise.all([playing, reel.play().catch(() => {})]);
    if (this.#coming !== stream) return;
    this.#coming = null;
    const last = this.reel;
    this.#showing = next;
    this.#shown = stream;
    this.#apply();
    if (!first && last !== reel) {
      last.pause();
      last.srcObject = null;
    }
    for (const each of this.#reels) each.classList.toggle("showing", each === reel);
  }

  /** @returns {Promise<boolean>} whether there is sound now; a browser may want a gesture */
  async sound(on) {
    this.#muted = !on;
    this.#apply();
    if (!on) return true;
    try {
      await this.reel.play();
    } catch {
      this.#muted = true;
      this.#apply();
    }
    return !this.#muted;
  }

  /** @param {number} volume 0 to 1 */
  volume(volume) {
    this.#volume = volume;
    this.#apply();
  }

  /** Takes everything off the screen. */
  clear() {
    for (const reel of this.#reels) {
      reel.srcObject = null;
      reel.classList.remove("showing");
    }
    this.#shown = null;
    this.#coming = null;
  }

  #apply() {
    this.#reels.forEach((reel, index) => {
      reel.muted = this.#muted || index !== this.#showing;
      reel.volume = this.#volume;
    });
  }
}
