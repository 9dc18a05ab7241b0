// Keeps the overview up to date from the server's event stream.
"use strict";

// Milliseconds. The server sends a heartbeat every 15 seconds.
const SILENCE = 40000, RETRY = 5000;

// New HTML of parts that somebody is using: it is shown when the form is closed.
const pending = new Map();
let elements, timer, source;

function findElements() {
  elements = new Map([...document.querySelectorAll("[data-live]")].map((each) => [each.dataset.live, each]));
}

function isInUse(element) {
  return element.contains(document.activeElement) || element.querySelector("details[open]") !== null;
}

function setStatus(text) {
  const lost = document.getElementById("lost");
  if (lost.textContent !== text) lost.textContent = text;
}

function show(name, html) {
  const element = elements.get(name);
  if (isInUse(element)) {
    pending.set(name, html);
    return;
  }
  pending.delete(name);
  const content = document.createElement("template");
  content.innerHTML = html;
  // If nothing has changed, a selected text must stay selected.
  if (content.innerHTML !== element.innerHTML) element.replaceChildren(content.content);
}

function showPending() {
  for (const [name, html] of [...pending]) show(name, html);
}

// Loads the whole page again, because there is a new channel.
async function loadAgain() {
  const main = document.querySelector("main");
  const answer = await fetch("/fleet", {headers: {Accept: "text/html"}});
  if (!answer.ok || isInUse(main)) {
    setStatus("There is a new channel: load this page again to see it.");
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  main.replaceWith(page.querySelector("main"));
  pending.clear();
  findElements();
}

function restartTimer() {
  clearTimeout(timer);
  timer = setTimeout(() => { source.close(); fail(); connect(); }, SILENCE);
}

function fail() {
  delete document.body.dataset.live;
  setStatus("The connection to the server is lost. The numbers are old; the page connects again by itself.");
}

function receive(event) {
  const parts = Object.entries(JSON.parse(event.data));
  setStatus("");
  for (const [name, html] of parts) if (elements.has(name)) show(name, html);
  if (parts.some(([name]) => !elements.has(name))) loadAgain();
  document.body.dataset.live = "";
  restartTimer();
}

function connect() {
  source = new EventSource("/fleet/events");
  source.addEventListener("parts", receive);
  source.addEventListener("alive", restartTimer);
  source.onerror = () => {
    fail();
    // After a status such as 503, a browser does not connect again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY);
  };
  restartTimer();
}

findElements();
document.addEventListener("focusout", () => setTimeout(showPending));
document.addEventListener("toggle", showPending, true);
connect();
