// Firefox, as the distribution ships it. Its driver talks to it over TCP on loopback, so where the
// browser runs in a namespace the driver has to: it is a process of its own there
// (`firefox-driver.js`), and what is here asks it over a channel. A page is used as those of
// Chromium are, as far as the tests need it.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

import { execIn } from "./network.js";

const DRIVER = fileURLToPath(new URL("firefox-driver.js", import.meta.url));

/**
 * Starts a browser.
 * @param {object} [options]
 * @param {string} [options.namespace] where it runs
 * @param {object} [options.names] of the server (see `namesFor`)
 * @param {string} [options.authority] the file of an authority that it trusts
 */
export async function startFirefox({ namespace, names, authority } = {}) {
  const firefox = new Firefox(execIn(namespace, [process.execPath, DRIVER], names?.hosts));
  await firefox.ask("start", { authority });
  return firefox;
}

class Firefox {
  #driver;
  #asked = new Map();
  #count = 0;

  constructor([program, ...args]) {
    this.#driver = spawn(program, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    this.#driver.on("message", ({ id, value, fault }) => {
      const { resolve, reject } = this.#asked.get(id);
      this.#asked.delete(id);
      if (fault === undefined) resolve(value);
      else reject(new Error(fault));
    });
    this.#driver.on("exit", (code) => {
      for (const { reject } of this.#asked.values()) reject(new Error(`it ended with ${code}`));
    });
  }

  /** Has the driver do something. */
  ask(what, given = {}) {
    const id = this.#count += 1;
    const answer = new Promise((resolve, reject) => this.#asked.set(id, { resolve, reject }));
    this.#driver.send({ id, what, given });
    return answer;
  }

  /** Opens a page. */
  async open(url) {
    return new Page(this, await this.ask("open", { url }));
  }

  /** Closes it; fails for errors of pages and for hosts that are not `hosts`. */
  async close(hosts) {
    const ended = once(this.#driver, "exit");
    const { errors, requests } = await this.ask("close");
    await ended;
    if (errors.length) throw new Error(`a page logged errors:\n${errors.join("\n")}`);
    const asked = requests.filter((url) => /^(https?|wss?):/.test(url))
      .map((url) => new URL(url).hostname);
    const foreign = [...new Set(asked)].filter((host) => !hosts.includes(host));
    if (foreign.length) throw new Error(`other hosts were asked for: ${foreign.join(", ")}`);
  }
}

/** One page. What is evaluated in it must stand for itself, as with Chromium. */
class Page {
  #firefox;
  #number;

  constructor(firefox, number) {
    this.#firefox = firefox;
    this.#number = number;
  }

  #ask(what, given) {
    return this.#firefox.ask(what, { page: this.#number, ...given });
  }

  evaluate(script, argument) {
    return this.#ask("evaluate", { script: String(script), argument });
  }

  waitForFunction(script, argument, { timeout, polling = "raf" }) {
    return this.#ask("wait", { script: String(script), argument, timeout, polling });
  }

  isVisible(selector) {
    return this.evaluate((each) => {
      return document.querySelector(each)?.checkVisibility({ visibilityProperty: true }) ?? false;
    }, selector);
  }

  textContent(selector) {
    return this.evaluate((each) => document.querySelector(each).textContent, selector);
  }

  click(selector) {
    return this.#ask("click", { selector });
  }

  async screenshot({ path }) {
    await this.#ask("screenshot", { path });
  }

  close() {
    return this.#ask("closePage");
  }
}
