// A certificate authority of a test, and a home for a browser that trusts it: no flag of the
// browser weakens what it checks.

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

import { closing } from "./cleanup.js";

const run = promisify(execFile);
const DAYS = "30";
const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** An authority that lasts as long as the test. */
export async function authorityFor(t) {
  const folder = await mkdtemp(path.join(tmpdir(), "turncast-authority-"));
  closing(t, folder, (each) => rm(each, { recursive: true, force: true }));
  const file = (name) => path.join(folder, name);
  await run("openssl", ["req", "-x509", ...KEY, "-days", DAYS, "-subj", "/CN=Authority of a test",
    "-keyout", file("authority.key"), "-out", file("authority.pem")]);
  /** A certificate for such names (`DNS:...`, `IP:...`). */
  const files = async (...names) => {
    const [key, certificate] = [file(`${names[0]}.key`), file(`${names[0]}.pem`)];
    await writeFile(file("names"), `subjectAltName = ${names.join(",")}\n`);
    await run("openssl", ["req", "-new", ...KEY, "-subj", "/CN=A relay",
      "-keyout", key, "-out", file("request")]);
    await run("openssl", ["x509", "-req", "-in", file("request"), "-days", DAYS,
      "-CA", file("authority.pem"), "-CAkey", file("authority.key"), "-CAcreateserial",
      "-extfile", file("names"), "-out", certificate]);
    return { certificate, key };
  };
  return {
    /** Its own certificate. */
    file: file("authority.pem"),
    files,
    /** The same as lines of TOML. */
    async certificate(...names) {
      const { certificate, key } = await files(...names);
      return `certificate = ${JSON.stringify(certificate)}\nkey = ${JSON.stringify(key)}`;
    },
    /** A home whose store of certificates has the authority in it. */
    home: () => homeThatTrusts(t, file("authority.pem")),
  };
}

/** A home of Chromium whose store of certificates has that of an authority in it. */
export async function homeThatTrusts(t, authority) {
  const home = await mkdtemp(path.join(tmpdir(), "turncast-home-"));
  closing(t, home, (each) => rm(each, { recursive: true, force: true }));
  const store = path.join(home, ".pki/nssdb");
  await mkdir(store, { recursive: true });
  await run("certutil", ["-d", `sql:${store}`, "-N", "--empty-password"]);
  await run("certutil", ["-d", `sql:${store}`, "-A", "-n", "authority", "-t", "C,,",
    "-i", authority]);
  return home;
}
