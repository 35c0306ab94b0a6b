// Networks of network namespaces: a public one with the server, and clients behind routers that
// translate addresses. Everything is named with the tag of this run, and taken down at the end.
//
//   server 203.0.113.10 --+                +-- router 203.0.113.21 | 10.1.0.1 -- client 10.1.0.2
//                         +-- public net --+
//   (or behind a router)                   +-- router 203.0.113.22 | 10.2.0.1 -- client 10.2.0.2

import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);
const TAG = process.env.TURNCAST_TEST_TAG ?? `tc${process.pid}`;

export const SERVER = "203.0.113.10";
export const SERVER_V6 = "2001:db8::10";
export const SERVER_INSIDE = "10.9.0.2";
export const GATEWAY = "203.0.113.1";

/**
 * The command that runs another one inside a namespace.
 * @param {string} [hosts] a file that stands there for /etc/hosts
 */
export function execIn(namespace, command, hosts) {
  if (!namespace) return command;
  // Mounts are the namespace's own: `ip netns exec` sees to that.
  const mount = ["sh", "-ec", 'mount --bind "$0" /etc/hosts; exec "$@"', hosts];
  return ["ip", "netns", "exec", namespace, ...hosts ? mount : [], ...command];
}

/** Whether this process may make namespaces. */
export function mayMakeNetworks() {
  return process.getuid() === 0;
}

export class Network {
  #namespaces = [];

  /**
   * Builds it.
   * @param {object} options
   * @param {boolean} [options.serverBehindNat] a 1:1 NAT before the server, without hairpinning
   */
  static async build({ serverBehindNat = false } = {}) {
    const network = new Network();
    try {
      await network.#namespace("net");
      await network.#shell("net", [
        "ip link add public type bridge",
        "ip link set public up",
        `ip address add ${GATEWAY}/24 dev public`,
        // It answers for everything else, and drops it without a word.
        "sysctl -qw net.ipv4.ip_forward=0",
      ]);
      if (serverBehindNat) await network.#natServer();
      else await network.#publicHost("srv", SERVER);
      await network.#client("a", 1);
      await network.#client("b", 2);
    } catch (error) {
      await network.remove();
      throw error;
    }
    return network;
  }

  get server() {
    return this.#name("srv");
  }

  /** A host of the public network, at `GATEWAY`. */
  get outside() {
    return this.#name("net");
  }

  /** @param {"a"|"b"} which */
  client(which) {
    return this.#name(which);
  }

  /** Packets that a client sent to anybody but the server and the other router. */
  async strayPackets(which) {
    const { packets } = await this.#counter(which, "watch", "stray");
    return packets;
  }

  async #counter(part, table, name) {
    const { stdout } = await run("ip", [
      "netns", "exec", this.#name(part), "nft", "-j", "list", "counter", "ip", table, name,
    ]);
    const { packets, bytes } = JSON.parse(stdout).nftables.find((each) => each.counter).counter;
    return { packets, bytes };
  }

  /** Gives the server and the clients IPv6 as well, which nobody translates. */
  async addIpv6() {
    const enable = [
      "for conf in /proc/sys/net/ipv6/conf/*; do",
      "  for key in dad_transmits accept_dad accept_ra; do echo 0 > $conf/$key; done",
      "  echo 0 > $conf/disable_ipv6",
      "done",
    ];
    // Chromium gives up what it loads when an address comes: the link's own is the last one.
    const settled = [
      "for _ in $(seq 100); do",
      "  ip -6 address show dev wan scope link | grep -q inet6 && exit",
      "  sleep 0.05",
      "done",
      "exit 1",
    ];
    const add = (address, device) => `ip address add ${address}/64 dev ${device} nodad`;
    for (const part of ["srv", "ra", "rb", "a", "b"]) await this.#shell(part, enable);
    await this.#shell("srv", [
      add(SERVER_V6, "wan"),
      "ip route add 2001:db8:1::/64 via 2001:db8::21",
      "ip route add 2001:db8:2::/64 via 2001:db8::22",
    ]);
    for (const [which, number] of [["a", 1], ["b", 2]]) {
      await this.#shell(`r${which}`, [
        "sysctl -qw net.ipv6.conf.all.forwarding=1",
        add(`2001:db8::2${number}`, "wan"),
        add(`2001:db8:${number}::1`, "lan"),
      ]);
      await this.#shell(which, [
        add(`2001:db8:${number}::2`, "wan"),
        `ip route add default via 2001:db8:${number}::1`,
        ...settled,
      ]);
    }
  }

  /** From now on a client's router passes TCP to port 443 of the server, and nothing else. */
  async onlyHttps(which) {
    await this.#rules(`r${which}`, [
      "table ip strict {",
      "  counter https { }",
      "  counter refused { }",
      "  chain forward { type filter hook forward priority -10; policy drop;",
      `    ip daddr ${SERVER} tcp dport 443 counter name https accept`,
      `    ip saddr ${SERVER} tcp sport 443 counter name https accept`,
      "    counter name refused; }",
      "}",
    ]);
  }

  /** From now on the server's firewall lets in TCP to port 443, and answers to its own TCP. */
  async serverOnlyHttps() {
    await this.#rules("srv", [
      "table ip strict {",
      "  counter https { }",
      "  counter refused { }",
      "  chain input { type filter hook input priority 0; policy drop;",
      "    iifname lo accept",
      "    tcp dport 443 counter name https accept",
      "    meta l4proto tcp ct state established accept",
      "    counter name refused; }",
      "}",
    ]);
  }

  /**
   * What passed as HTTPS, and what was refused, since one of the two before.
   * @param {"ra"|"rb"|"srv"} part
   */
  async strictCounters(part) {
    const https = await this.#counter(part, "strict", "https");
    const refused = await this.#counter(part, "strict", "refused");
    return { https, refused };
  }

  /** Drops a client's UDP at its router, or lets it pass again. Its TCP goes on. */
  async cutUdp(which, cut) {
    await this.#shell(`r${which}`, cut
      ? ["nft insert rule ip filter forward meta l4proto udp drop"]
      : [
        "nft -a list chain ip filter forward | sed -n 's/.*udp drop # handle //p' |",
        "  xargs -n 1 nft delete rule ip filter forward handle",
      ]);
  }

  async remove() {
    for (const name of this.#namespaces.splice(0).reverse()) {
      await run("ip", ["netns", "delete", name]).catch(() => {});
    }
  }

  #name(part) {
    return `${TAG}-${part}`;
  }

  async #namespace(part) {
    await run("ip", ["netns", "add", this.#name(part)]);
    this.#namespaces.push(this.#name(part));
    await this.#shell(part, [
      "ip link set lo up",
      "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
      "sysctl -qw net.ipv6.conf.default.disable_ipv6=1",
    ]);
  }

  async #shell(part, lines) {
    await run("ip", ["netns", "exec", this.#name(part), "sh", "-ec", lines.join("\n")]);
  }

  async #rules(part, lines) {
    await this.#shell(part, ["nft -f - <<'RULES'", ...lines, "RULES"]);
  }

  /** A cable between two namespaces. */
  async #cable(part, device, otherPart, otherDevice) {
    await run("ip", [
      "-n", this.#name(part), "link", "add", device, "type", "veth",
      "peer", "name", otherDevice, "netns", this.#name(otherPart),
    ]);
    await run("ip", ["-n", this.#name(part), "link", "set", device, "up"]);
    await run("ip", ["-n", this.#name(otherPart), "link", "set", otherDevice, "up"]);
  }

  async #publicHost(part, address) {
    await this.#namespace(part);
    await this.#cable(part, "wan", "net", `to-${part}`);
    await this.#shell("net", [`ip link set to-${part} master public`]);
    await this.#shell(part, [
      `ip address add ${address}/24 dev wan`,
      `ip route add default via ${GATEWAY}`,
    ]);
  }

  async #natServer() {
    await this.#publicHost("gate", SERVER);
    await this.#namespace("srv");
    await this.#cable("srv", "wan", "gate", "lan");
    await this.#shell("gate", [
      "ip address add 10.9.0.1/24 dev lan",
      "sysctl -qw net.ipv4.ip_forward=1",
      "nft -f - <<'RULES'",
      "table ip nat {",
      "  chain in { type nat hook prerouting priority dstnat;",
      `    iifname wan ip daddr ${SERVER} dnat to ${SERVER_INSIDE}; }`,
      "  chain out { type nat hook postrouting priority srcnat;",
      `    oifname wan ip saddr ${SERVER_INSIDE} snat to ${SERVER}; }`,
      "}",
      // No hairpinning: what comes from inside for the public address goes nowhere.
      "table ip filter {",
      "  chain in { type filter hook prerouting priority -150;",
      `    iifname lan ip daddr ${SERVER} drop; }`,
      "}",
      "RULES",
    ]);
    await this.#shell("srv", [
      `ip address add ${SERVER_INSIDE}/24 dev wan`,
      "ip route add default via 10.9.0.1",
    ]);
  }

  /** A client behind a router whose NAT is symmetric: another port for every destination. */
  async #client(part, number) {
    const router = `r${part}`;
    await this.#publicHost(router, `203.0.113.2${number}`);
    await this.#namespace(part);
    await this.#cable(part, "wan", router, "lan");
    await this.#shell(router, [
      `ip address add 10.${number}.0.1/24 dev lan`,
      "sysctl -qw net.ipv4.ip_forward=1",
      "nft -f - <<'RULES'",
      "table ip nat {",
      "  chain out { type nat hook postrouting priority srcnat;",
      "    oifname wan masquerade fully-random; }",
      "}",
      "table ip filter {",
      "  chain forward { type filter hook forward priority 0; policy drop;",
      "    iifname lan accept",
      "    ct state established,related accept; }",
      // A stray packet from outside must leave no trace in the table of translations.
      "  chain input { type filter hook input priority 0;",
      "    iifname wan ct state new drop; }",
      "}",
      "RULES",
    ]);
    await this.#shell(part, [
      `ip address add 10.${number}.0.2/24 dev wan`,
      `ip route add default via 10.${number}.0.1`,
      "nft -f - <<'RULES'",
      "table ip watch {",
      "  counter stray { }",
      "  chain out { type filter hook output priority 0;",
      "    oifname lo accept",
      // The other side's addresses are met by connectivity checks; that is WebRTC's business.
      // Multicast stays on the own link: it is how names of host candidates are asked for.
      "    ip daddr { 203.0.113.0/24, 10.0.0.0/8, 224.0.0.0/4 } accept",
      "    counter name stray; }",
      "}",
      "RULES",
    ]);
  }
}
