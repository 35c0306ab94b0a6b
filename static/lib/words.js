// Every sentence that says what went wrong and what to do next, in one place. A code comes in,
// plain words go out; the page decides where they stand.

/** Sources: what the camera, microphone or screen refused. `kind` is "video" or "audio". */
export function troubleWords(trouble, kind) {
  const device = kind === "audio" ? "microphone" : "camera";
  const words = {
    insecure: {
      title: "This page cannot use a camera here",
      text: "Browsers allow cameras and microphones on secure pages only. Open this page with "
        + "https:// at the beginning, or as http://localhost on the server itself.",
    },
    refused: {
      title: `The ${device} is blocked`,
      text: `Your browser refuses the ${device} to this page. Press the camera or lock symbol `
        + "beside the address, choose Allow, and try again.",
    },
    missing: {
      title: `No ${device} was found`,
      text: `Plug a ${device} in, or switch it on; it appears in the list by itself.`,
    },
    gone: {
      title: `That ${device} is not there any more`,
      text: "Choose another one from the list.",
    },
    busy: {
      title: `The ${device} is in use`,
      text: `Another program holds the ${device}. Close that program, then try again.`,
    },
    failed: {
      title: `The ${device} did not start`,
      text: "Try again; if it fails again, unplug the device, plug it in, and reload this page.",
    },
  };
  return words[trouble.code] ?? words.failed;
}

/** Why the server did not let a broadcaster in, or ended the broadcast. */
export function broadcastRefusal(code, message) {
  const words = {
    "key-required": "This server wants a broadcast key. Paste the key, or the link that contains "
      + "it, and press Go live again.",
    "bad-key": "This broadcast key is not valid, or not any more. Ask for a new link and paste "
      + "it here.",
    "room-live": "Somebody is live in this room already. Choose another room name and press "
      + "Go live again.",
    "unsupported-version": "This page is older than the server. Reload it and go live again.",
    "rate-limited": "The server was asked too often from here. Wait a minute, then press Go live "
      + "again.",
    forbidden: "The server does not allow a broadcast from here. Ask whoever runs it for a link "
      + "that does.",
  };
  return words[code]
    ?? `The server refused${message ? `: ${message}` : ` (${code}).`} Try again in a minute.`;
}

/** How a broadcast ended, for the broadcaster. */
export function endedWords(code) {
  const words = {
    ended: "Everybody who watched has been told. The camera and the microphone are off.",
    "taken-over": "This broadcast goes on in another window or on another device, which took it "
      + "over. The camera and the microphone are off here.",
    "resumed-elsewhere": "This broadcast goes on in another window. The camera and the microphone "
      + "are off here.",
  };
  return words[code] ?? "The server ended the broadcast. The camera and the microphone are off. "
    + "You can start a new one.";
}

/** What the watch page shows for each of its states: title, text and the label of its button. */
export function watchWords(state, code) {
  if (state === "stopped") return stoppedWords(code);
  return {
    joining: { title: "Reaching the server", text: "This takes a moment." },
    waiting: {
      title: "Waiting for the broadcast",
      text: "Nobody is live in this room yet. Leave this page open: the picture starts by itself.",
    },
    away: {
      title: "The broadcaster is away",
      text: "It may be a short break. Leave this page open: the picture comes back by itself.",
    },
    connecting: {
      title: "Connecting",
      text: "The broadcast is live. Your browser is finding the shortest way to it.",
    },
    reconnecting: {
      title: "Reconnecting",
      text: "The connection broke. It is being repaired by itself; this takes a few seconds.",
    },
    lost: {
      title: "The server is out of reach",
      text: "This page keeps trying by itself. Check your network if it lasts.",
      action: "Try now",
    },
    full: {
      title: "This broadcast is full",
      text: "All places are taken. Leave this page open: it tries again by itself and starts as "
        + "soon as somebody leaves.",
      action: "Try now",
    },
    locked: {
      title: "This room is locked",
      text: "The broadcaster lets nobody new in at the moment. This page tries again by itself.",
      action: "Try now",
    },
    busy: {
      title: "The server is busy",
      text: "It asked this page to wait a little. It tries again by itself.",
      action: "Try now",
    },
    failed: failedWords(code),
    ended: {
      title: "The broadcast has ended",
      text: "Thank you for watching. If there is a next one, you will get a new link.",
      action: "Start page",
    },
  }[state];
}

/** No way between the two browsers. `code` says how far it came. */
function failedWords(code) {
  const text = code === "no-relay"
    ? "No direct way was found, and the relay of this server did not answer. Try another network, "
      + "for example a phone's; if you run this server, see that its UDP ports are open."
    : "Your browser and the broadcaster's found no way to each other. Try again; if it fails "
      + "again, try another network, for example a phone's.";
  return { title: "No connection", text, action: "Try again" };
}

function stoppedWords(code) {
  return {
    "resumed-elsewhere": {
      title: "Watching in another window",
      text: "This room is open in another window, which took over. You can watch here instead.",
      action: "Watch here",
    },
    "unsupported-version": {
      title: "This page is out of date",
      text: "The server was updated. Load the page again.",
      action: "Reload",
    },
    "bad-room": {
      title: "This is no room",
      text: "A room name has up to 64 letters, digits, - or _. Check the link that you were sent.",
      action: "Start page",
    },
    unsupported: {
      title: "This browser cannot watch",
      text: "It has no WebRTC, or it is switched off. Use a current Firefox, Chrome, Edge or "
        + "Safari.",
      action: "Start page",
    },
  }[code] ?? {
    title: "The server closed the door",
    text: "It does not let this page watch here. Check the link, or ask whoever sent it.",
    action: "Try again",
  };
}

/** What a link's state and path are called in the list of viewers: tone and word. */
export function pathWords(state, path) {
  if (state === "connected") {
    if (path === "direct") return ["good", "Direct"];
    if (path) return ["calm", `Relayed · ${path.toUpperCase()}`];
    return ["good", "Connected"];
  }
  if (state === "failed") return ["bad", "No connection"];
  if (state === "reconnecting") return ["warn", "Reconnecting"];
  return ["", "Connecting"];
}
