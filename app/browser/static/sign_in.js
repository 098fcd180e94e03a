// MLflow keeps its place behind the "#", which no server sees. A form's address may carry it, and
// the browser carries it on through the redirect that follows.
"use strict";
document.getElementById("sign-in").addEventListener("submit", (event) => {
  const form = event.currentTarget;
  form.action = form.action.split("#")[0] + window.location.hash;
});
