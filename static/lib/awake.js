// Keeps the screen on while a broadcast runs: a phone that falls asleep takes its camera with it.

let wanted = false;
let lock = null;

/** Asks for it, or lets it go. A browser that cannot, or does not want to, is left alone. */
export function keepAwake(on) {
  wanted = on;
  if (on) acquire();
  else release();
}

async function acquire() {
  if (!wanted || lock || document.visibilityState !== "visible") return;
  try {
    lock = await navigator.wakeLock?.request("screen");
    lock?.addEventListener("release", () => {
      lock = null;
    });
    if (!wanted) release();
  } catch {
    lock = null;
  }
}

function release() {
  lock?.release().catch(() => {});
}

// A hidden page loses it, and asks again when it is back.
document.addEventListener("visibilitychange", acquire);
