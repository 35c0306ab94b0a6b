// Let's Encrypt's test authority, from the distribution's package, as a host of the public network
// (see network.js): it looks at the server from outside, as the real one does.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

import { closing } from "./cleanup.js";
import { execIn, GATEWAY, SERVER } from "./network.js";

const START_MS = 10_000;

/** Asks for a file again and again until it is there, and prints it. */
const FETCH = `
  const [url, timeout] = process.argv.slice(1);
  const end = Date.now() + Number(timeout);
  const ask = () => fetch(url).then((answer) => answer.text(), (why) => {
    if (Date.now() > end) throw why;
    return new Promise((resolve) => setTimeout(resolve, 50)).then(ask);
  });
  ask().then((text) => process.stdout.write(text));`;

/**
 * Starts it, with a name server that knows one host for every name: the server.
 * @param {object} authority whose certificate its own API has (see authority.js)
 * @returns {Promise<{environment: object, root: string}>} what tells a daemon of it, and the file
 *   of the root certificate of what it issues
 */
export async function pebbleFor(t, network, authority) {
  const folder = await mkdtemp(path.join(tmpdir(), "turncast-pebble-"));
  closing(t, folder, (each) => rm(each, { recursive: true, force: true }));
  const { certificate, key } = await authority.files(`IP:${GATEWAY}`);
  const settings = path.join(folder, "pebble.json");
  await writeFile(settings, JSON.stringify({
    pebble: {
      listenAddress: `${GATEWAY}:14000`,
      managementListenAddress: `${GATEWAY}:15000`,
      certificate,
      privateKey: key,
      httpPort: 80,
      tlsPort: 443,
    },
  }));
  const start = (...command) => {
    const [program, ...args] = execIn(network.outside, command);
    const env = { ...process.env, PEBBLE_VA_NOSLEEP: "1" };
    const child = spawn(program, args, { stdio: "ignore", env });
    closing(t, child, async () => {
      if (child.exitCode !== null) throw new Error(`${command[0]} ended with ${child.exitCode}`);
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    });
  };
  start("pebble-challtestsrv", "-defaultIPv4", SERVER, "-defaultIPv6", "",
    "-dns01", `${GATEWAY}:8053`, "-http01", "", "-https01", "", "-tlsalpn01", "",
    "-management", `${GATEWAY}:8055`);
  start("pebble", "-strict", "-dnsserver", `${GATEWAY}:8053`, "-config", settings);
  const read = async (url) => {
    const command = [process.execPath, "-e", FETCH, url, String(START_MS)];
    const [program, ...args] = execIn(network.outside, command);
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: authority.file };
    const { stdout } = await promisify(execFile)(program, args, { env });
    return stdout;
  };
  await read(`http://${GATEWAY}:8055/`);
  const root = path.join(folder, "root.pem");
  await writeFile(root, await read(`https://${GATEWAY}:15000/roots/0`));
  const environment = {
    TURNCAST__ACME__DIRECTORY: `https://${GATEWAY}:14000/dir`,
    TURNCAST__ACME__ROOT_CERTIFICATE: authority.file,
  };
  return { environment, root };
}
