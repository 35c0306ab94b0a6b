// The start page: one button that is a plain link, and one field that takes a room or a link.

import { part, roomFrom } from "/static/lib/ui.js";

const field = part("room");
const mistake = part("room-mistake");

part("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const room = roomFrom(field.value);
  field.setAttribute("aria-invalid", String(!room));
  if (room) {
    mistake.textContent = "";
    location.assign(`/watch/${room}`);
    return;
  }
  mistake.textContent = field.value.trim()
    ? "A room name has up to 64 letters, digits, - or _. Check it, or paste the whole link."
    : "Type the room's name, or paste the link that you were sent.";
  field.focus();
});

field.addEventListener("input", () => {
  field.removeAttribute("aria-invalid");
  mistake.textContent = "";
});
