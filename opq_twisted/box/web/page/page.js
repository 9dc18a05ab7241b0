// Keeps the page up to date from the box's event stream, also through a reboot.
"use strict";

// Milliseconds. The box sends a heartbeat every 15 seconds, unless it is too busy.
const SILENCE = 40000, RETRY = 1500, GRACE = 3000, TAIL = 1000, CHECK_TIMEOUT = 660000;
const MOST_OUTPUT = 200000;
const TEXTS = ["headline", "message", "installed", "available", "promise", "progress", "checked",
  "outcome"];
// The elements that are hidden with an empty text, if not the element of the text.
const AROUND = {notes: "what-is-new", progress: "download"};

const element = (id) => document.getElementById(id);
const buttons = document.querySelectorAll("button");
const installs = () => current?.page.installs;
let source, heard, current = null, lost = false, pending = false;

function setText(id, text) {
  // A screen reader would read the same text again.
  if (element(id).textContent !== text) element(id).textContent = text;
  element(AROUND[id] ?? id).hidden = text === "";
}

// `disabled` would take the focus away.
function enable(enabled) {
  for (const button of buttons) {
    button.disabled = false;
    button.setAttribute("aria-disabled", String(!enabled));
  }
}

function show(next) {
  const page = next.page, before = current;
  current = next;
  if (page.at_rest && before && next.installed !== before.loaded) {
    // This page belongs to the previous release.
    location.reload();
    return;
  }
  next.loaded = before ? before.loaded : next.installed;
  document.body.dataset.live = "";
  document.body.dataset.tone = page.tone;
  document.title = `${page.headline} · OPQ Box`;
  for (const id of TEXTS) if (!(pending && id === "message")) setText(id, page[id]);
  setText("notes", next.update_available ? next.notes ?? "" : "");
  enable(page.at_rest && !pending);
  element("unsigned").hidden = !next.unsigned;
  showStages(page);
  showBar(next.progress);
  if (Number(element("history").dataset.until) !== (next.last_attempt?.ended ?? 0)) refreshHistory();
  if (lost || (next.stage !== before?.stage && installs())) beginOutput();
  if (next.stage !== before?.stage) {
    atEnd = false;
    if (installs()) element("output").open = true;
  }
  lost = false;
}

function showStages(page) {
  element("stages").hidden = page.step === null;
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
  const under_way = current !== null && !current.page.at_rest;
  const reboots = current?.page.may_reboot;
  lost = true;
  delete document.body.dataset.live;
  document.body.dataset.tone = "busy";
  setText("headline", reboots ? "The box is rebooting" : "The box does not answer");
  setText("message", reboots
    ? "This page waits for it, and goes on by itself."
    : under_way
      ? "It may be busy, or without power. Its update goes on by itself, and so does this page."
      : "It may be off, or out of reach. This page goes on by itself when it is back.");
  document.title = `${element("headline").textContent} · OPQ Box`;
  setText("promise", "");
  setText("progress", "");
  enable(false);
}

// A browser has few connections per host: a hidden page closes its own.
function listen() {
  source?.close();
  if (document.hidden) return;
  source = new EventSource("events");
  heard = Date.now();
  source.onmessage = (event) => {
    heard = Date.now();
    show(JSON.parse(event.data));
  };
  source.addEventListener("alive", () => { heard = Date.now(); });
  source.onerror = () => {
    source.close();
    pollInstead();
  };
}

// The box limits the number of streams: without one, the page polls the status.
async function pollInstead() {
  try {
    show(await (await fetch("status", {signal: AbortSignal.timeout(SILENCE)})).json());
  } catch {
    showAbsent();
  }
  setTimeout(listen, RETRY);
}

// A box that loses its power does not close its connections.
setInterval(() => {
  const opens = source?.readyState !== EventSource.CLOSED;
  if (document.hidden || !opens || Date.now() - heard < SILENCE) return;
  listen();
  const begun = heard;
  setTimeout(() => { if (heard === begun && !document.hidden) showAbsent(); }, GRACE);
}, RETRY);

document.addEventListener("visibilitychange", listen);

async function refreshHistory() {
  try {
    const text = await (await fetch("./")).text();
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("history");
    element("history").dataset.until = fresh.dataset.until;
    element("history").replaceChildren(...fresh.children);
    element("past").hidden = element("history").children.length === 0;
  } catch {
    // The next status triggers this again.
  }
}

async function act(event) {
  event.preventDefault();
  if (event.submitter?.getAttribute("aria-disabled") === "true") return;
  const form = event.currentTarget;
  pending = true;
  enable(false);
  setText("message", "Asking the update server.");
  let said = "The box does not answer. Try again.";
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: {Accept: "application/json"},
      signal: AbortSignal.timeout(CHECK_TIMEOUT),
    });
    said = wordsOf(await answer.text());
  } catch {
    // `said` has the sentence.
  }
  pending = false;
  // The message of an update that has begun is shown instead.
  if (current?.page.at_rest) {
    setText("message", said);
    enable(true);
  } else if (current) {
    setText("message", current.page.message);
  }
}

function wordsOf(text) {
  try {
    return JSON.parse(text).status;
  } catch {
    return text.trim();
  }
}

let offset, decoder, atEnd;

// Each attempt has its own log.
function beginOutput() {
  offset = 0;
  decoder = new TextDecoder();
  atEnd = false;
  element("log").textContent = "";
}

async function tail() {
  if (element("output").open && !document.hidden && (installs() || !atEnd)) {
    try {
      await readOutput();
    } catch {
      // The next call reads it.
    }
  }
  setTimeout(tail, TAIL);
}

async function readOutput() {
  // The range starts one byte earlier: so it is never empty, and 416 means that the log is shorter.
  const from = Math.max(0, offset - 1), reader = decoder;
  const answer = await fetch("log", {headers: {Range: `bytes=${from}-`}});
  const bytes = new Uint8Array(await answer.arrayBuffer());
  // A new log may have been started meanwhile.
  if (reader !== decoder) return;
  if (answer.status === 416 && offset > 0) {
    beginOutput();
    return;
  }
  atEnd = true;
  const fresh = bytes.subarray(offset - from);
  if (!answer.ok || fresh.length === 0) return;
  atEnd = false;
  offset += fresh.length;
  const log = element("log");
  const follows = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  log.append(decoder.decode(fresh, {stream: true}));
  if (log.textContent.length > MOST_OUTPUT) log.textContent = log.textContent.slice(-MOST_OUTPUT / 2);
  if (follows) log.scrollTop = log.scrollHeight;
}

for (const form of document.forms) form.addEventListener("submit", act);
beginOutput();
listen();
tail();
