// Keeps the page up to date from the box's event stream, through the reboot too.
"use strict";

// Milliseconds. The box says every 15 seconds that it lives.
const SILENCE = 20000, RETRY = 1500, TAIL = 1000;
const MOST_OUTPUT = 200000;
const TEXTS = ["headline", "message", "installed", "available", "notes", "promise", "progress",
  "checked", "outcome"];
// What disappears with an empty text, where that is more than the text itself.
const AROUND = {notes: "what-is-new", progress: "download"};

const element = (id) => document.getElementById(id);
const buttons = document.querySelectorAll("button");
let source, heard, current = null;

function setText(id, text) {
  // The same text once more would be read out once more.
  if (element(id).textContent !== text) element(id).textContent = text;
  element(AROUND[id] ?? id).hidden = text === "";
}

function show(next) {
  const page = next.page, before = current;
  current = next;
  document.body.dataset.live = "";
  document.body.dataset.tone = page.tone;
  document.title = `${page.headline} · OPQ Box`;
  for (const id of TEXTS) setText(id, page[id]);
  for (const button of buttons) button.disabled = !page.at_rest;
  element("unsigned").hidden = !next.unsigned;
  showStages(page);
  showBar(next.progress);
  if (before === null) return;
  if (next.last_attempt?.ended !== before.last_attempt?.ended) refreshHistory();
  if (next.stage !== before.stage && installs()) {
    beginOutput();
    element("output").open = true;
  }
}

function showStages(page) {
  element("stages").hidden = page.at_rest;
  [...element("stages").children].forEach((item, index) => {
    item.className = page.step !== null && index < page.step ? "past" : "";
    if (index === page.step) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

function showBar(progress) {
  if (progress?.total) element("bar").value = progress.received / progress.total;
  else element("bar").removeAttribute("value");
}

function showAbsent() {
  const reboots = current !== null && !current.page.at_rest;
  delete document.body.dataset.live;
  document.body.dataset.tone = "busy";
  setText("headline", reboots ? "The box is rebooting" : "The box does not answer");
  setText("message", reboots
    ? "This page waits for it, and goes on by itself."
    : "It may be off, or out of reach. This page goes on by itself when it is back.");
  setText("promise", "");
  for (const button of buttons) button.disabled = true;
}

function listen() {
  source?.close();
  source = new EventSource("events");
  heard = Date.now();
  source.onmessage = (event) => {
    heard = Date.now();
    show(JSON.parse(event.data));
  };
  source.addEventListener("alive", () => { heard = Date.now(); });
  source.onerror = () => {
    source.close();
    lookInstead();
  };
}

// There may be too many streams; then the status is asked for now and then.
async function lookInstead() {
  try {
    show(await (await fetch("status", {signal: AbortSignal.timeout(SILENCE)})).json());
  } catch {
    showAbsent();
  }
  setTimeout(listen, RETRY);
}

// A box that has lost its power does not close its connections.
setInterval(() => {
  if (source.readyState !== EventSource.CLOSED && Date.now() - heard > SILENCE) {
    showAbsent();
    listen();
  }
}, RETRY);

async function refreshHistory() {
  try {
    const text = await (await fetch("./")).text();
    const fresh = new DOMParser().parseFromString(text, "text/html");
    element("history").replaceChildren(...fresh.getElementById("history").children);
    element("past").hidden = element("history").children.length === 0;
  } catch {
    // The next look shows it.
  }
}

async function act(event) {
  event.preventDefault();
  const form = event.currentTarget;
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await fetch(form.action, {method: "POST", headers: {Accept: "application/json"}});
    const text = await answer.text();
    if (!answer.ok) setText("message", wordsOf(text));
  } catch {
    setText("message", "The box does not answer.");
  }
  // An update that has begun says so itself.
  for (const button of buttons) button.disabled = !(current?.page.at_rest ?? true);
}

function wordsOf(text) {
  try {
    return JSON.parse(text).status;
  } catch {
    return text;
  }
}

const installs = () => ["installing", "returning"].includes(current?.stage);
let offset, decoder, atEnd;

// Each attempt has a log of its own.
function beginOutput() {
  offset = 0;
  decoder = new TextDecoder();
  atEnd = false;
  element("log").textContent = "";
}

async function tail() {
  if (element("output").open && (installs() || !atEnd)) {
    try {
      await readOutput();
    } catch {
      // It comes with the next look.
    }
  }
  setTimeout(tail, TAIL);
}

async function readOutput() {
  // From the byte before, so that an answer always has one, and tells how many there are.
  const from = Math.max(0, offset - 1);
  const answer = await fetch("log", {headers: {Range: `bytes=${from}-`}});
  if (answer.status === 416 && offset > 0) beginOutput();
  atEnd = true;
  if (!answer.ok) return;
  const bytes = new Uint8Array(await answer.arrayBuffer()).subarray(offset - from);
  if (bytes.length === 0) return;
  offset += bytes.length;
  atEnd = false;
  const log = element("log");
  const follows = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  log.append(decoder.decode(bytes, {stream: true}));
  if (log.textContent.length > MOST_OUTPUT) log.textContent = log.textContent.slice(-MOST_OUTPUT / 2);
  if (follows) log.scrollTop = log.scrollHeight;
}

for (const form of document.forms) form.addEventListener("submit", act);
beginOutput();
listen();
tail();
