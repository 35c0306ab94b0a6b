// The relay's URLs, as this browser can use them.

/** `turns:` with an address of IPv4 or IPv6 in place of a name. */
const TLS_TO_AN_ADDRESS = /^turns:(?=\[|\d+\.\d+\.\d+\.\d+(?:[:?]|$))/;

/**
 * Firefox leaves out `turns:` URLs without a name (153 does), and says nothing. The port of our
 * pages takes the relay's clients without TLS as well; what they relay is encrypted in any case.
 * @param {RTCIceServer[]} servers as the hub sends them
 */
export function usableServers(servers, agent = navigator.userAgent) {
  if (!agent.includes("Firefox/")) return servers;
  return servers.map((server) => ({
    ...server,
    urls: server.urls.map((url) => url.replace(TLS_TO_AN_ADDRESS, "turn:")),
  }));
}
