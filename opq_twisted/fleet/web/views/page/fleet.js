// Keeps the overview up to date from the server's event stream.
"use strict";

// Milliseconds. The server sends a heartbeat every 15 seconds.
const SILENCE = 40000, RETRY = 5000;

// Parts that somebody is using: they are replaced when that is over.
const pending = new Map();
let places, timer, source;

function findPlaces() {
  places = new Map([...document.querySelectorAll("[data-live]")].map((each) => [each.dataset.live, each]));
}

function isInUse(place) {
  return place.contains(document.activeElement) || place.querySelector("details[open]") !== null;
}

function tell(text) {
  const lost = document.getElementById("lost");
  if (lost.textContent !== text) lost.textContent = text;
}

function show(name, html) {
  const place = places.get(name);
  if (isInUse(place)) {
    pending.set(name, html);
    return;
  }
  pending.delete(name);
  const content = document.createElement("template");
  content.innerHTML = html;
  // What is the same stays, with the text that somebody has selected.
  if (content.innerHTML !== place.innerHTML) place.replaceChildren(content.content);
}

function showPending() {
  for (const [name, html] of [...pending]) show(name, html);
}

// The whole page again: there is a new channel.
async function renew() {
  const main = document.querySelector("main");
  const answer = await fetch("/fleet", {headers: {Accept: "text/html"}});
  if (!answer.ok || isInUse(main)) {
    tell("There is a new channel: load this page again to see it.");
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  main.replaceWith(page.querySelector("main"));
  pending.clear();
  findPlaces();
}

function hear() {
  clearTimeout(timer);
  timer = setTimeout(() => { source.close(); fail(); connect(); }, SILENCE);
}

function fail() {
  delete document.body.dataset.live;
  tell("The connection to the server is lost. The numbers are old; they come back by themselves.");
}

function receive(event) {
  const parts = Object.entries(JSON.parse(event.data));
  tell("");
  for (const [name, html] of parts) if (places.has(name)) show(name, html);
  if (parts.some(([name]) => !places.has(name))) renew();
  document.body.dataset.live = "";
  hear();
}

function connect() {
  source = new EventSource("/fleet/events");
  source.addEventListener("parts", receive);
  source.addEventListener("alive", hear);
  source.onerror = () => {
    fail();
    // After some answers, such as 503, a browser does not try again by itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY);
  };
  hear();
}

findPlaces();
document.addEventListener("focusout", () => setTimeout(showPending));
document.addEventListener("toggle", showPending, true);
connect();
