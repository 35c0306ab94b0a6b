// What getStats says about a connection, in our words: which way the media takes, and how well.

/**
 * @typedef {object} Reading
 * @property {"direct"|"udp"|"tcp"|"tls"|null} path null until a pair is selected
 * @property {string} local type of the selected local candidate
 * @property {string} remote type of the selected remote candidate
 * @property {number|null} roundTripMs
 * @property {number} bytes received or sent, whatever this side does
 * @property {number} frames decoded or encoded
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {number} lost packets lost in all, of those that this side received
 * @property {number} packets received in all
 * @property {number} audioEnergy
 * @property {number} atMs
 */

/** Reads one connection. @returns {Promise<Reading>} */
export async function readStats(pc) {
  const report = await pc.getStats();
  const reading = {
    path: null, local: "", remote: "", roundTripMs: null, bytes: 0, frames: 0, width: 0,
    height: 0, fps: 0, lost: 0, packets: 0, audioEnergy: 0, atMs: performance.now(),
  };
  for (const entry of report.values()) {
    if (entry.type === "inbound-rtp" || entry.type === "outbound-rtp") addStream(reading, entry);
  }
  const pair = selectedPair(report);
  if (pair) {
    const local = report.get(pair.localCandidateId);
    const remote = report.get(pair.remoteCandidateId);
    reading.local = local?.candidateType ?? "";
    reading.remote = remote?.candidateType ?? "";
    reading.path = pathOf(local, remote);
    if (pair.currentRoundTripTime !== undefined) {
      reading.roundTripMs = pair.currentRoundTripTime * 1000;
    }
  }
  return reading;
}

function addStream(reading, entry) {
  reading.bytes += entry.bytesReceived ?? entry.bytesSent ?? 0;
  reading.lost += entry.packetsLost ?? 0;
  reading.packets += entry.packetsReceived ?? 0;
  if (entry.kind === "video") {
    reading.frames += entry.framesDecoded ?? entry.framesEncoded ?? 0;
    reading.width = entry.frameWidth ?? reading.width;
    reading.height = entry.frameHeight ?? reading.height;
    reading.fps = entry.framesPerSecond ?? reading.fps;
  } else {
    reading.audioEnergy += entry.totalAudioEnergy ?? 0;
  }
}

/** The transport names its pair; Firefox marks the pair itself. */
function selectedPair(report) {
  let marked = null;
  for (const entry of report.values()) {
    if (entry.type === "transport" && entry.selectedCandidatePairId) {
      return report.get(entry.selectedCandidatePairId) ?? null;
    }
    if (entry.type === "candidate-pair" && entry.selected) marked = entry;
  }
  return marked;
}

/** Relayed on either side is relayed; how we reach the relay counts when it is on our side. */
function pathOf(local, remote) {
  if (!local || !remote) return null;
  if (local.candidateType === "relay") return local.relayProtocol ?? "udp";
  return remote.candidateType === "relay" ? "udp" : "direct";
}
