// The broadcaster's sources: a camera, a screen or no picture; a microphone or no sound. It owns
// the tracks, stops what it replaces, and says what went wrong as an error code of its own, so
// that the page can say it as a sentence.

/** Picture heights offered; the width follows from 16:9. */
export const HEIGHTS = [480, 720, 1080];

/** What the chooser offers besides devices. */
export const NONE = "none";
export const SCREEN = "screen";

/**
 * @typedef {object} Trouble
 * @property {"insecure"|"refused"|"missing"|"busy"|"gone"|"failed"} code
 * @property {string} what the browser's own words, for the console
 */

export class Sources {
  #onChange;
  #onEnded;

  /**
   * @param {object} options
   * @param {(kind: "video"|"audio", track: MediaStreamTrack|null) => void} options.onChange
   * @param {(kind: "video"|"audio", wasScreen: boolean) => void} options.onEnded a source went
   *   away by itself: unplugged, or the browser's own button ended the sharing
   */
  constructor({ onChange, onEnded }) {
    this.#onChange = onChange;
    this.#onEnded = onEnded;
    this.video = null;
    this.audio = null;
    /** A device id, `screen` or `none`: what is on, not what was wished. */
    this.picture = NONE;
    this.sound = NONE;
    this.height = 720;
  }

  /**
   * Opens camera and microphone with one question, and falls back to what there is.
   * @returns {Promise<{video: Trouble|null, audio: Trouble|null}>}
   */
  async open({ camera = "", microphone = "" } = {}) {
    const wanted = {
      video: camera === NONE ? false : this.#cameraConstraints(camera),
      audio: microphone === NONE ? false : microphoneConstraints(microphone),
    };
    if (!wanted.video && !wanted.audio) return { video: null, audio: null };
    try {
      this.#take(await capture(wanted));
      return { video: null, audio: null };
    } catch (error) {
      if (troubleOf(error).code === "refused" || !wanted.video || !wanted.audio) {
        const trouble = troubleOf(error);
        return { video: wanted.video && trouble, audio: wanted.audio && trouble };
      }
    }
    // Together it failed; one of the two may still work, and says itself why the other does not.
    return {
      video: await this.#tryOne({ video: wanted.video }),
      audio: await this.#tryOne({ audio: wanted.audio }),
    };
  }

  /** Changes the picture; what was on goes on until the new one is there. @throws {Trouble} */
  async setPicture(choice) {
    if (choice === NONE) {
      this.#put("video", null, NONE);
    } else if (choice === SCREEN) {
      this.#take(await this.#guarded(captureScreen));
      this.picture = SCREEN;
    } else {
      this.#take(await this.#guarded(() => capture({ video: this.#cameraConstraints(choice) })));
    }
  }

  /** @throws {Trouble} */
  async setSound(choice) {
    if (choice === NONE) {
      this.#put("audio", null, NONE);
    } else {
      this.#take(await this.#guarded(() => capture({ audio: microphoneConstraints(choice) })));
    }
  }

  /** Changes the size of the running camera in place. */
  async setHeight(height) {
    this.height = height;
    if (this.video && this.picture !== SCREEN) {
      await this.video.applyConstraints(sizeConstraints(height)).catch(() => {});
    }
  }

  stop() {
    this.#put("video", null, NONE);
    this.#put("audio", null, NONE);
  }

  async #tryOne(constraints) {
    try {
      this.#take(await capture(constraints));
      return null;
    } catch (error) {
      return troubleOf(error);
    }
  }

  async #guarded(act) {
    try {
      return await act();
    } catch (error) {
      throw troubleOf(error);
    }
  }

  #take(stream) {
    for (const track of stream.getTracks()) {
      this.#put(track.kind, track, track.getSettings().deviceId ?? "");
    }
  }

  #put(kind, track, choice) {
    const before = this[kind];
    const wasScreen = kind === "video" && this.picture === SCREEN;
    if (before) before.onended = null;
    this[kind] = track;
    if (kind === "video") this.picture = choice;
    else this.sound = choice;
    if (track) {
      track.onended = () => {
        const endedScreen = kind === "video" && this.picture === SCREEN;
        this.#put(kind, null, NONE);
        this.#onEnded(kind, endedScreen);
      };
    }
    this.#onChange(kind, track, wasScreen);
    before?.stop();
  }

  #cameraConstraints(deviceId) {
    const device = deviceId ? { deviceId: { exact: deviceId } } : {};
    return { ...device, ...sizeConstraints(this.height) };
  }
}

/** Cameras and microphones; names are empty until one of them was allowed. */
export async function listDevices() {
  if (!navigator.mediaDevices?.enumerateDevices) return { cameras: [], microphones: [] };
  const devices = await navigator.mediaDevices.enumerateDevices();
  const named = (kind, word) => devices
    .filter((device) => device.kind === kind && device.deviceId !== "communications")
    .map((device, index) => ({
      id: device.deviceId,
      name: device.label || `${word} ${index + 1}`,
    }));
  return { cameras: named("videoinput", "Camera"), microphones: named("audioinput", "Microphone") };
}

/** Whether this page may ask for a camera at all. */
export function secureEnough() {
  return window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

export function canShareScreen() {
  return Boolean(navigator.mediaDevices?.getDisplayMedia);
}

function capture(constraints) {
  if (!secureEnough()) throw new DOMException("not a secure context", "SecurityError");
  return navigator.mediaDevices.getUserMedia(constraints);
}

async function captureScreen() {
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio: false });
  // Letters matter more than movement on a screen.
  for (const track of stream.getVideoTracks()) track.contentHint = "detail";
  return stream;
}

function sizeConstraints(height) {
  return {
    width: { ideal: Math.round((height * 16) / 9) },
    height: { ideal: height },
    frameRate: { ideal: 30 },
  };
}

function microphoneConstraints(deviceId) {
  return deviceId ? { deviceId: { exact: deviceId } } : true;
}

/** @returns {Trouble} */
function troubleOf(error) {
  const code = {
    SecurityError: "insecure",
    NotAllowedError: "refused",
    NotFoundError: "missing",
    OverconstrainedError: "gone",
    NotReadableError: "busy",
    AbortError: "busy",
  }[error.name] ?? "failed";
  return { code, what: error.message };
}
