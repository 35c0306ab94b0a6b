// Small helpers for pages whose markup stands in the HTML: find, fill, show, say.

/** The element with this id; a missing one is a mistake of ours and fails loudly. */
export function part(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no part "${id}"`);
  return element;
}

/** Shows these parts and hides those. */
export function show(element, visible = true) {
  element.hidden = !visible;
}

/** Says something to a screen reader without moving the focus. */
export function announce(sentence) {
  const region = part("announce");
  // The same sentence twice is read twice only when the text changes in between.
  region.textContent = "";
  requestAnimationFrame(() => {
    region.textContent = sentence;
  });
}

/** Fills a pill: what it says and which of the signal tones it has. */
export function setPill(element, tone, text) {
  element.dataset.tone = tone;
  element.textContent = text;
}

/** A copy of a `<template>`'s only child. */
export function fromTemplate(id) {
  return part(id).content.firstElementChild.cloneNode(true);
}

/** Copies, also where the clipboard is not offered to pages. @returns {Promise<boolean>} */
export async function copyText(text, field) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    field.focus();
    field.select();
    return document.execCommand("copy");
  }
}

/** Room names, as the server takes them. */
export const ROOM_NAME = /^[A-Za-z0-9_-]{1,64}$/;

/** The room in something that a person typed or pasted: a name, or a watch link of any host. */
export function roomFrom(text) {
  const trimmed = text.trim();
  const link = /\/watch\/([^/?#\s]+)/.exec(trimmed);
  const name = link ? link[1] : trimmed;
  return ROOM_NAME.test(name) ? name : null;
}

/** Whether other computers cannot open this page by this name. */
export function onlyThisComputer(hostname = location.hostname) {
  return hostname === "localhost" || hostname.endsWith(".localhost") || hostname === "[::1]"
    || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}

/** `?relay=1`: use the relay only on this side. */
export function relayForced() {
  return new URLSearchParams(location.search).get("relay") === "1";
}

/** `0:42`, `12:05`, `1:02:03`. */
export function clock(totalMs) {
  const total = Math.max(0, Math.floor(totalMs / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** `1 viewer`, `3 viewers`. */
export function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
