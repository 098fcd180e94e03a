// Fetches the page again every few seconds while it is looked at, and puts the new state in place.
"use strict";
const EVERY = 5000, TIMEOUT = 4000;
const live = document.getElementById("live"), nav = document.getElementById("nav");
let next;

async function refresh() {
  clearTimeout(next);
  try {
    const answer = await fetch("/status", {
      headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT),
    });
    if (!answer.ok) throw new Error(answer.statusText);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    showThatNothingIsKnown("The proxy does not respond");
  }
  if (!document.hidden) next = setTimeout(refresh, EVERY);
}

function show(page) {
  const reading = window.getSelection();
  if (!reading.isCollapsed && live.contains(reading.anchorNode)) return; // it is being copied
  live.replaceChildren(...page.getElementById("live").childNodes);
  const fresh = page.getElementById("nav");
  if (nav.textContent !== fresh.textContent) nav.replaceChildren(...fresh.childNodes);
  tell(page.title);
}

function showThatNothingIsKnown(why) {
  const state = live.querySelector(".state");
  state.className = "state unknown";
  state.querySelector("h1").textContent = why;
  state.querySelector("p").replaceChildren("Last known state, of ", state.querySelector("time"));
  tell(why);
}

function tell(title) {
  if (document.title === title) return;
  document.title = title; // begins with the state: that it changed is said, and nothing else
  document.getElementById("said").textContent = title;
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
next = setTimeout(refresh, EVERY);
