// A cable that can be pulled: TCP to the daemon through this process. While it is pulled nothing
// passes either way and nobody is told, as with a lost radio link.

import { once } from "node:events";
import net from "node:net";

export class Cable {
  #server;
  #target;
  #pairs = new Set();
  #pulled = false;

  /** @param {string} target host and port of the daemon */
  static async to(target) {
    const cable = new Cable();
    cable.#target = new URL(`http://${target}`);
    cable.#server = net.createServer((near) => {
      const { hostname, port } = cable.#target;
      cable.#join(near, net.connect(port, hostname));
    });
    cable.#server.listen(0, "127.0.0.1");
    await once(cable.#server, "listening");
    cable.origin = `http://127.0.0.1:${cable.#server.address().port}`;
    return cable;
  }

  #join(near, far) {
    const pair = { near, far, webSocket: false, lost: false };
    this.#pairs.add(pair);
    near.once("data", (bytes) => {
      pair.webSocket = bytes.subarray(0, 8).toString() === "GET /ws ";
    });
    const drop = () => {
      // A pulled cable carries no end of a connection either.
      if (this.#pulled || pair.lost) return;
      near.destroy();
      far.destroy();
      this.#pairs.delete(pair);
    };
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on("data", (bytes) => {
        if (!this.#pulled && !pair.lost) to.write(bytes);
      });
      from.on("error", () => {});
      from.on("close", drop);
    }
  }

  /** Nothing passes from now on. */
  pull() {
    this.#pulled = true;
  }

  /** What a WebSocket still says is lost, its end too; everything else passes. */
  loseWebSockets() {
    for (const pair of this.#pairs) pair.lost ||= pair.webSocket;
  }

  /** Everything that was connected is dead; new connections pass. */
  plug() {
    this.#pulled = false;
    for (const { near, far } of this.#pairs) {
      near.destroy();
      far.destroy();
    }
    this.#pairs.clear();
  }

  /** Leads to another daemon from now on, as after a restart on the same address. */
  retarget(target) {
    this.#target = new URL(`http://${target}`);
    this.plug();
  }

  close() {
    this.plug();
    this.#server.close();
  }
}
