// Fetches the page again every few seconds while it is looked at, and puts the new state in place.
"use strict";
const EVERY = 5000;

async function refresh() {
  const live = document.getElementById("live");
  try {
    const answer = await fetch("/status", { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!live.contains(document.activeElement)) live.replaceChildren(...fresh.childNodes);
    if (document.title !== page.title) {
      document.title = page.title; // begins with the state: that it changed is said, and nothing else
      document.getElementById("said").textContent = page.title;
    }
    live.classList.remove("stale");
  } catch {
    live.classList.add("stale"); // what is shown is of the time that it names
  }
}

setInterval(() => { if (!document.hidden) refresh(); }, EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
