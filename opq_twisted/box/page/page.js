// Keeps the page up to date: asks for the status every second, through the reboot too.
"use strict";

const STAGES = ["checking", "downloading", "verifying", "unpacking", "installing", "rebooting",
  "confirming"];
const element = (id) => document.getElementById(id);

function asText(version) {
  if (version === null) return "unknown";
  return `${version} (${new Date(version * 1000).toLocaleString()})`;
}

function asMegabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function showStages(stage) {
  const current = STAGES.indexOf(stage);
  const shown = current < 0 ? [stage] : STAGES;
  element("stages").replaceChildren(...shown.map((name, index) => {
    const item = document.createElement("span");
    item.textContent = name;
    if (index < current) item.className = "past";
    if (name === stage) item.setAttribute("aria-current", "step");
    return item;
  }));
}

function showProgress(progress) {
  const bar = element("progress");
  bar.hidden = progress === null;
  if (progress === null) return "";
  if (progress.total === null) bar.removeAttribute("value");
  else bar.value = progress.received / progress.total;
  const total = progress.total === null ? "" : ` of ${asMegabytes(progress.total)}`;
  return `${asMegabytes(progress.received)}${total}, ${asMegabytes(progress.rate)} a second`;
}

function show(status) {
  element("installed").textContent = asText(status.installed);
  element("available").textContent = asText(status.available);
  showStages(status.stage);
  element("message").textContent = showProgress(status.progress) || status.message;
  element("update").disabled = !["idle", "failed"].includes(status.stage);
  const last = status.last_attempt;
  element("last").hidden = last === null;
  if (last !== null) {
    const when = new Date(last.ended * 1000).toLocaleString();
    element("outcome").textContent = `${when}: ${last.outcome}. ${last.reason}`;
  }
}

async function refresh() {
  try {
    show(await (await fetch("status", {signal: AbortSignal.timeout(5000)})).json());
  } catch {
    element("message").textContent = "The box does not answer; it may be rebooting. Waiting for it.";
    element("update").disabled = true;
  }
  setTimeout(refresh, 1000);
}

document.forms[0].addEventListener("submit", async (event) => {
  event.preventDefault();
  element("update").disabled = true;
  try {
    const answer = await fetch("box_update", {method: "POST"});
    element("message").textContent = (await answer.json()).status;
  } catch {
    element("message").textContent = "The box does not answer.";
  }
});

refresh();
