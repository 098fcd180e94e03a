// Fetches the page again every few seconds while it is looked at, and puts the new state in place.
"use strict";
const EVERY = 5000, PATIENCE = 4000;
const live = document.getElementById("live"), away = document.getElementById("away");
let next;

async function refresh() {
  clearTimeout(next);
  try {
    const answer = await fetch("/status", {
      headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(PATIENCE),
    });
    if (!answer.ok) throw new Error(answer.statusText);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    away.hidden = true;
  } catch {
    const text = `The proxy gives no answer. What stands below is of ${live.querySelector("time").textContent}.`;
    if (away.textContent !== text) away.textContent = text;
    away.hidden = false;
    live.querySelector(".state").className = "state unknown";
  }
  if (!document.hidden) next = setTimeout(refresh, EVERY);
}

function show(page) {
  const reading = window.getSelection();
  if (!reading.isCollapsed && live.contains(reading.anchorNode)) return; // it is being copied
  live.replaceChildren(...page.getElementById("live").childNodes);
  const nav = document.getElementById("nav"), fresh = page.getElementById("nav");
  if (nav.textContent !== fresh.textContent) nav.replaceChildren(...fresh.childNodes);
  if (document.title === page.title) return;
  document.title = page.title; // begins with the state: that it changed is said, and nothing else
  document.getElementById("said").textContent = page.title;
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
next = setTimeout(refresh, EVERY);
