// Keeps the page up to date from the box's event stream, also through a reboot.
"use strict";

// Milliseconds. The box sends a heartbeat every 15 seconds, unless it is too busy.
const SILENCE = 40000, RETRY = 1500, GRACE = 3000, TAIL = 1000, CHECK_TIMEOUT = 660000;
const MOST_OUTPUT = 200000;
// A release in a sentence.
const RELEASE = /\b([Rr])elease (\d{9,12})\b/;

const element = (id) => document.getElementById(id);
const installs = () => current?.page.installs;
const NAME = document.title.slice(element("headline").textContent.length);
let source, heard, current = null, lost = false, pending = false;

// Times in the reader's zone; the words of the page are English.
const DAY = new Intl.DateTimeFormat("en-GB", {dateStyle: "long"});
const HOUR = new Intl.DateTimeFormat("en-GB", {timeStyle: "short"});

function localise(time) {
  const date = new Date(time.dateTime), day = DAY.format(date);
  const near = "near" in time.dataset && day === DAY.format(new Date());
  time.textContent = `${near ? "today" : day}, ${HOUR.format(date)}`;
}

function timeOf(seconds) {
  if (Math.abs(seconds) > 1e11) return String(seconds);
  const time = document.createElement("time");
  time.dateTime = new Date(1000 * seconds).toISOString();
  time.dataset.near = "";
  localise(time);
  return time;
}

function releaseOf(version) {
  if (version > 1e11) return String(version);
  const time = timeOf(version);
  delete time.dataset.near;
  time.title = `Release ${version}`;
  localise(time);
  return time;
}

// Each release in a text is shown as the time at which it was built.
function withTimes(text) {
  const [before, letter, version] = text.split(RELEASE);
  if (version === undefined) return [text];
  const after = text.slice(before.length + "release ".length + version.length);
  return [`${before}${letter === "R" ? "The" : "the"} release of `, releaseOf(+version),
    ...withTimes(after)];
}

function setParts(id, parts) {
  const content = document.createElement("span");
  content.append(...parts);
  // A screen reader would read the same text again.
  if (element(id).textContent !== content.textContent) {
    element(id).replaceChildren(...content.childNodes);
  }
}

function setText(id, text) {
  setParts(id, withTimes(text));
  element(id).hidden = text === "";
}

// The action that makes sense now is the only button; the focus stays on something.
function offer(action, atRest) {
  const hasTimes = current?.last_check || current?.next_check;
  const focused = document.activeElement?.closest("form");
  element("update").hidden = action !== "update";
  element("check").hidden = action !== "check";
  element("checks").hidden = !atRest || (action === "check" && !hasTimes);
  element("again").hidden = action === "check";
  for (const button of document.querySelectorAll("button")) {
    // `disabled` would take the focus away.
    button.setAttribute("aria-disabled", String(pending));
  }
  if (focused && document.activeElement?.checkVisibility?.() !== true) {
    (document.querySelector("form:not([hidden]) button:not([hidden])") ?? element("headline")).focus();
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
  next.received = performance.now();
  document.body.dataset.live = "";
  document.body.dataset.tone = page.tone;
  document.title = page.headline + NAME;
  for (const id of ["headline", "promise", "progress"]) setText(id, page[id]);
  element("update").dataset.question = page.question ?? "";
  if (!pending) setText("message", page.message);
  offer(page.action, page.at_rest);
  showReleases(next);
  showStages(page);
  tick();
  if (element("past").dataset.past !== page.past) refresh("past");
  if (Number(element("reports").dataset.sent) !== (next.last_report ?? 0)) refresh("reports");
  if (lost || (next.stage !== before?.stage && installs())) beginOutput();
  if (next.stage !== before?.stage) {
    atEnd = false;
    if (installs()) element("output").open = true;
  }
  lost = false;
}

function showReleases(next) {
  const known = (version) => version === null ? "unknown" : releaseOf(version);
  setParts("installed", [known(next.installed)]);
  setParts("available", [next.page.newest || known(next.available)]);
  setParts("last-check", next.last_check ? [timeOf(next.last_check)] : []);
  element("last").hidden = !next.last_check;
  setParts("next-check", next.next_check ? [timeOf(next.next_check)] : []);
  element("next").hidden = !next.next_check;
  element("unsigned").hidden = !next.unsigned;
  element("notes").textContent = next.notes ?? "";
  element("what-is-new").hidden = !next.update_available || !next.notes;
}

function showStages(page) {
  element("under-way").hidden = page.step === null;
  [...element("stages").children].forEach((item, index) => {
    item.className = page.step !== null && index < page.step ? "past" : "";
    if (index === page.step) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

// Between two events the bar goes on as the box has estimated.
function tick() {
  const page = current?.page;
  if (!page) return;
  const elapsed = (performance.now() - current.received) / 1000;
  // An older agent, to which the box goes back, estimates nothing.
  const done = page.done ?? -1, left = (page.left ?? -1) - elapsed;
  const minutes = Math.max(1, Math.round(left / 60));
  element("bar").hidden = done < 0;
  if (done >= 0) element("bar").value = Math.min(Math.max(page.limit, done), done + page.pace * elapsed);
  element("left").textContent = left < 0 ? ""
    : left < 60 ? "less than a minute left"
    : left < 5400 ? `about ${minutes} minute${minutes === 1 ? "" : "s"} left`
    : `about ${Math.round(left / 3600)} hours left`;
  element("left").hidden = left < 0;
}

setInterval(tick, TAIL);

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
  document.title = element("headline").textContent + NAME;
  setText("progress", "");
  offer("", false);
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

async function refresh(id) {
  try {
    const text = await (await fetch("./")).text();
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById(id);
    fresh.open = element(id).open;
    fresh.querySelectorAll("time").forEach(localise);
    element(id).replaceWith(fresh);
  } catch {
    // The next status triggers this again.
  }
}

async function act(event) {
  event.preventDefault();
  if (event.submitter?.getAttribute("aria-disabled") === "true") return;
  const form = event.currentTarget, question = form.dataset.question;
  if (question && !confirm(question)) return;
  pending = true;
  if (current) offer(current.page.action, current.page.at_rest);
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
  if (!current) return;
  offer(current.page.action, current.page.at_rest);
  // The message of the page says it better, unless nothing has changed, or an update has begun.
  const is_repeated = said === current.message || said === `${current.page.headline}.`;
  setText("message", is_repeated || !current.page.at_rest ? current.page.message : said);
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

document.querySelectorAll("time").forEach(localise);
for (const form of document.forms) form.addEventListener("submit", act);
beginOutput();
listen();
tail();
