// The real daemon as a process of its own: a configuration in a directory of its own, ports that
// the system picks, and what it says in its log.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { setTimeout as after } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { execIn } from "./network.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const START_MS = 20_000;
const STOP_MS = 20_000;

/** The program under test. */
export const BINARY = process.env.TURNCAST_BIN
  ?? path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "debug/turncast");

/** The key that admits broadcasters where a test's configuration wants one. */
export const KEY = "a-key-of-the-browser-tests";

/**
 * Starts a daemon.
 * @param {object} options
 * @param {Record<string, string>} [options.tables] keys by table, as lines of TOML
 * @param {string} [options.whole] all of the configuration instead: nothing is added to it
 * @param {Record<string, string>} [options.environment] keys beside the whole
 * @param {string} [options.namespace] where it runs
 */
export async function startDaemon({ tables = {}, whole, environment, namespace } = {}) {
  const folder = await mkdtemp(path.join(tmpdir(), "turncast-browser-"));
  const file = path.join(folder, "turncast.toml");
  await writeFile(file, whole ?? configuration(folder, tables));
  const [program, ...args] = execIn(namespace, [BINARY, "run", "--config", file]);
  const stdio = ["ignore", "pipe", "pipe"];
  const env = { ...environmentOf(folder, whole), ...environment };
  const child = spawn(program, args, { stdio, env });
  const daemon = new Daemon(child, folder, namespace);
  await daemon.ready();
  return daemon;
}

class Daemon {
  #child;
  #folder;
  #namespace;
  #stopped;
  #awaited = [];

  constructor(child, folder, namespace) {
    this.#child = child;
    this.#folder = folder;
    this.#namespace = namespace;
    this.#stopped = once(child, "exit");
    /** Every line of the log, parsed. */
    this.log = [];
    this.web = "";
    this.admin = "";
    /** The relay's last listener, with its scheme. */
    this.turn = "";
    child.stdout.resume();
  }

  /** Reads the log until the daemon says that it is ready, and goes on reading after that. */
  async ready() {
    const lines = readline.createInterface({ input: this.#child.stderr });
    const isReady = new Promise((resolve) => {
      lines.on("line", (line) => this.#heard(line, resolve));
    });
    const outcome = await Promise.race([
      isReady,
      this.#stopped.then(([code]) => `it ended with ${code}`),
      after(START_MS, "it did not get ready in time", { ref: false }),
    ]);
    if (outcome) throw new Error(`the daemon: ${outcome}\n${this.text()}`);
  }

  #heard(line, resolve) {
    let entry;
    try {
      entry = JSON.parse(line);
    } catch {
      entry = { message: line };
    }
    const fields = { ...entry, ...entry.fields };
    this.log.push(fields);
    for (const look of this.#awaited) look(fields);
    const { listener = "" } = fields;
    if (fields.message === "listening" && listener.startsWith("http")) this.web = listener;
    if (fields.message === "listening" && /^(udp|tcp|tls):/.test(listener)) this.turn = listener;
    if (fields.message === "listening" && listener.startsWith("admin ")) {
      this.admin = listener.slice("admin ".length);
    }
    if (fields.message === "ready") resolve();
  }

  /** Waits until a message stands in the log. */
  async says(message, withinMs) {
    if (this.log.some((entry) => entry.message === message)) return;
    const said = new Promise((resolve) => {
      this.#awaited.push((entry) => entry.message === message && resolve("said"));
    });
    if (await Promise.race([said, after(withinMs, "late", { ref: false })]) === "late") {
      throw new Error(`the daemon did not say "${message}"\n${this.text()}`);
    }
  }

  /** Waits until it has looked after itself, as it does once after its start; that counts, too. */
  async isSettled() {
    await this.says("the doctor has seen every URL", START_MS);
    return this.metrics();
  }

  text() {
    return this.log.map((entry) => JSON.stringify(entry)).join("\n");
  }

  /** Host and port of the pages. */
  get address() {
    return new URL(this.web).host;
  }

  /** The link with which somebody may broadcast, as the operator gets it. */
  async invite() {
    const args = ["invite", "--config", path.join(this.#folder, "turncast.toml")];
    const [program, ...rest] = execIn(this.#namespace, [BINARY, ...args]);
    const env = environmentOf(this.#folder, true);
    const { stdout } = await promisify(execFile)(program, rest, { env });
    return stdout.trim();
  }

  /** Every metric, by its name with its labels. */
  async metrics() {
    const text = await this.#fetch(`${this.admin}/metrics`);
    const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
    return new Map(lines.map((line) => {
      const space = line.lastIndexOf(" ");
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }));
  }

  /** One metric; 0 when it is not there. */
  async metric(name) {
    return (await this.metrics()).get(name) ?? 0;
  }

  /** Waits until a metric is what it should be. @returns {Promise<number>} how long it took */
  async metricBecomes(name, wanted, withinMs) {
    const began = performance.now();
    for (;;) {
      const value = await this.metric(name);
      const tookMs = performance.now() - began;
      if (value === wanted) return tookMs;
      if (tookMs > withinMs) {
        throw new Error(`${name} is ${value} after ${Math.round(tookMs)} ms, not ${wanted}`);
      }
      // A counter has no event to wait for; it is asked again.
      await after(50);
    }
  }

  async #fetch(url) {
    if (!this.#namespace) {
      const answer = await fetch(url);
      return answer.text();
    }
    const script = "fetch(process.argv[1]).then(a=>a.text()).then(t=>process.stdout.write(t))";
    const [program, ...args] = execIn(this.#namespace, [process.execPath, "-e", script, url]);
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    for await (const chunk of child.stdout) text += chunk;
    return text;
  }

  /** Asks it to stop, and sees that it does so in good order. */
  async stop() {
    if (this.#child.exitCode === null) this.#child.kill("SIGTERM");
    const code = await Promise.race([
      this.#stopped.then(([exit, signal]) => exit ?? signal),
      after(STOP_MS, "late", { ref: false }),
    ]);
    if (code === "late") this.#child.kill("SIGKILL");
    await rm(this.#folder, { recursive: true, force: true });
    const panics = this.log.filter(({ message }) => /panicked/.test(message ?? ""));
    if (code !== 0 || panics.length) {
      throw new Error(`the daemon ended with ${code}\n${this.text()}`);
    }
  }
}

/**
 * Only what the test sets: an inherited `TURNCAST__...` would override the file. A whole
 * configuration says nothing of what a test needs of any daemon.
 */
function environmentOf(folder, whole) {
  const entries = Object.entries(process.env).filter(([name]) => !name.startsWith("TURNCAST"));
  return {
    ...Object.fromEntries(entries),
    ...whole && {
      TURNCAST__STATE_DIR: path.join(folder, "state"),
      TURNCAST__LOG__FORMAT: "json",
    },
  };
}

function configuration(folder, tables) {
  const defaults = {
    "": `state_dir = ${JSON.stringify(path.join(folder, "state"))}`,
    web: 'listen = ["127.0.0.1:0"]',
    // With TCP beside it a browser chooses by who answers first, and a path could not be foretold.
    turn: 'listen = ["udp://127.0.0.1:0"]',
    admin: 'listen = ["127.0.0.1:0"]',
    log: 'format = "json"',
  };
  // The pages' own port is a way to the relay over TCP, too: not where UDP alone is listened on.
  const listen = /listen = (.*)/.exec(tables.turn ?? "")?.[1] ?? "";
  const isUdpAlone = !/"(tcp:|tls:|[\d[])/.test(listen);
  if (isUdpAlone && !tables.public_ports) defaults.public_ports = "tcp = 0";
  const names = new Set([...Object.keys(defaults), ...Object.keys(tables)]);
  return [...names].map((name) => {
    const given = tables[name] ?? "";
    const wanted = (defaults[name] ?? "").split("\n")
      .filter((line) => !given.includes(`${line.split(" = ")[0]} = `));
    return [...(name ? [`[${name}]`] : []), ...wanted, given, ""].join("\n");
  }).join("\n");
}
