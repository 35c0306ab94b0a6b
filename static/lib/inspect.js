// `window.turncast`: what the page is doing, for tests and for the browser's console. It can be
// read and not written; nothing of the page depends on it, and it holds no key and no credential.
//
//   turncast.page        "broadcast" or "watch"
//   turncast.state       the state that the page shows, as in <body data-state>
//   turncast.signaling   "idle" | "connecting" | "joined" | "lost" | "refused" | "stopped"
//   turncast.sockets     how many sockets were opened since the page was loaded
//   turncast.room        name of the room, "" before there is one
//   turncast.member      our id at the hub
//   turncast.watchers    how many watch, as the hub says
//   turncast.links       [{id, state, path, pc}]: the connections that are in use
//   turncast.pcs         the RTCPeerConnections of these links
//   turncast.measure()   promise of the statistics of each link (see lib/stats.js)

import { readStats } from "./stats.js";

/** Publishes the object. @param {object} page getters for the fields above */
export function expose(page) {
  const view = {
    get pcs() {
      return page.links.map((link) => link.pc);
    },
    measure: () => Promise.all(page.links.map((link) => readStats(link.pc))),
    get links() {
      return page.links.map(({ id, state, path, pc }) => ({ id, state, path, pc }));
    },
  };
  for (const name of ["page", "state", "signaling", "sockets", "room", "member", "watchers"]) {
    Object.defineProperty(view, name, { get: () => page[name], enumerable: true });
  }
  Object.defineProperty(window, "turncast", { value: Object.freeze(view) });
}
