// The page: header, the view of the address, keys, the title, and what is said to a screen reader.

import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./vendor/htm-preact.js";
import { Dialogs, help, keysAreOn } from "./dialog.js";
import { Events } from "./events.js";
import { plural, span, zones } from "./format.js";
import { Overview } from "./overview.js";
import { Icon, isRegistered, Since } from "./parts.js";
import { Runtime } from "./runtime.js";
import { Schedule } from "./schedule.js";
import { address, age, changed, listen, now, onMove, pause, route, store, useData, useTick } from "./state.js";
import { Task } from "./task.js";

const TABS = [["tasks", "Tasks"], ["schedule", "Schedule"], ["events", "Events"], ["runtime", "Runtime"]];

function Connection() {
  useTick();
  const { connection, paused } = useData();
  const old = age();
  const text = paused !== null ? "Paused" : connection === "live" ? "Live" : connection === "connecting" ? "Connecting" : "Not connected";
  const tone = paused !== null ? "held" : connection === "live" ? "good" : connection === "connecting" ? "idle" : "bad";
  return html`<span class="live" title=${old === null ? "" : `The last message came ${span(old)} ago`}><${Icon} tone=${tone} /> ${text}</span>`;
}

function Header() {
  const { summary, paused } = useData();
  const turn = () => {
    zones.next(summary?.time_zone);
    changed();
  };
  const current = route.view === "task" ? "tasks" : route.view;
  const about = [summary?.version && `v${summary.version.replace(/^v/, "")}`, summary?.instance].filter(Boolean).join(" · ");
  return html`<header>
    <p class="service"><a href=${address("tasks")}><b><bdi>${summary?.service ?? "Tasks"}</bdi></b></a> <small><bdi>${about}</bdi>${summary?.started ? html`${about && " · "}up <${Since} at=${summary.started} />` : ""}</small></p>
    <nav aria-label="Views">${TABS.map(([view, title]) => html`<a key=${view} href=${address(view)} aria-current=${current === view ? "page" : null}>${title}</a>`)}</nav>
    <div class="buttons"><${Connection} />
      <button type="button" class="quiet" onClick=${turn} title="Times of the browser, of the service, or in UTC" aria-label=${`Time zone ${zones.name()}, change`}>${zones.name()}</button>
      <button type="button" class="pause" aria-pressed=${paused !== null} onClick=${pause}>${paused === null ? "Pause" : "Resume"}</button>
      <button type="button" aria-label="Keyboard" title="Keyboard (?)" onClick=${help}>?</button></div>
  </header>`;
}

/** What stands over everything: the age of the data where the connection is lost, and the shutdown. It moves nothing. */
function Notice() {
  useTick();
  const { connection, events, paused, summary } = useData();
  const old = age();
  if (paused === null && (connection === "lost" || connection === "refused") && old !== null) {
    return html`<div class="notice bad"><${Icon} tone="bad" /> <b>Connection lost.</b> The data is ${span(old)} old. ${connection === "refused" ? "The service refuses, or is gone; trying again." : "Trying again."}</div>`;
  }
  if (summary?.report) return html`<div class="notice"><details><summary><b>Shut down.</b> <bdi>${summary.report[0]}</bdi></summary><pre>${summary.report.join("\n")}</pre></details></div>`;
  if (summary?.shutting_down) {
    // Its drain is a part of the deadline.
    const began = events.find((event) => event.kind === "draining" || event.kind === "shutdown_began");
    const left = began && summary.shutdown_deadline_seconds ? began.at + summary.shutdown_deadline_seconds - now() : null;
    return html`<div class="notice warn"><${Icon} tone="warn" /> <b>Shutting down.</b> ${left !== null ? `At most ${span(left)} left. ` : ""}${plural([...store.rows.values()].filter((row) => row.active_runs > 0).length, "task")} still at work.</div>`;
  }
  return null;
}

/** Says changes only: never an age, never the same twice. */
function Announcer() {
  const { summary, connection, rows } = useData();
  const [text, say] = useState("");
  const before = useRef(null);
  const state = !summary ? null : [connection === "live" || connection === "connecting" ? "" : "Connection lost.", summary.shutting_down ? "Shutting down." : !summary.is_live ? "Liveness failing." : !summary.is_ready ? "Readiness failing." : !summary.has_started ? "Startup failing." : "All probes passing."].filter(Boolean).join(" ");
  useEffect(() => {
    if (state === null || state === before.current) return;
    if (before.current !== null) say(state);
    before.current = state;
  }, [state]);
  return html`<p role="status" class="hidden" id="said">${text}</p>`;
}

function Title() {
  const { summary, rows } = useData();
  useEffect(() => {
    const bad = [...rows.values()].filter((row) => isRegistered(row) && row.status !== "healthy").length;
    const place = route.view === "task" ? route.name : route.view;
    document.title = `${bad ? `(${bad}) ` : ""}${summary?.service ? `${summary.service} · ` : ""}${place}`;
  });
  return null;
}

function View() {
  useData();
  const [error, forget] = useErrorBoundary();
  useEffect(() => forget(), [route.view, route.name]);
  if (error) return html`<p class="bad" role="alert">This view failed: ${error.message}. <a href=${address("tasks")}>All tasks</a></p>`;
  switch (route.view) {
    case "task": return html`<${Task} key=${route.name} name=${route.name} />`;
    case "schedule": return html`<${Schedule} />`;
    case "events": return html`<${Events} />`;
    case "runtime": return html`<${Runtime} />`;
    default: return html`<${Overview} />`;
  }
}

function App() {
  return html`<a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.getElementById("main").focus())}>Skip to the content</a>
    <${Header} /><main id="main" tabindex="-1"><${View} /></main><${Notice} /><${Announcer} /><${Title} /><${Dialogs} />`;
}

// --- keys

let from = null;
onMove(() => {
  scrollTo(0, 0);
  // Back from a task: the keyboard is where it was.
  if (route.view === "tasks" && from !== null) {
    const name = from;
    requestAnimationFrame(() => requestAnimationFrame(() => [...document.querySelectorAll("tr.task")].find((row) => row.dataset.name === name)?.querySelector("a").focus()));
  }
  from = route.view === "task" ? route.name : null;
});
if (route.view === "task") from = route.name;

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.("input, select, textarea");
  if (event.key === "Escape" && route.view === "task") return void (location.hash = address("tasks"));
  if (event.key === "ArrowDown" && event.target.id === "search") return (event.preventDefault(), document.querySelector("tr.task a")?.focus());
  if (typing || !keysAreOn()) return;
  const rows = [...document.querySelectorAll("tr.task a")];
  const at = rows.indexOf(document.activeElement);
  const tab = "1234".indexOf(event.key);
  if (event.key === "?") help();
  else if (event.key === "p") pause();
  else if (event.key === "/") {
    event.preventDefault();
    const search = () => document.getElementById("search");
    if (search()) return search().focus();
    location.hash = address("tasks");
    requestAnimationFrame(() => requestAnimationFrame(() => search()?.focus()));
  } else if (event.key === "j") rows[at + 1]?.focus();
  else if (event.key === "k") rows[Math.max(0, at - 1)]?.focus();
  else if (event.key.length === 1 && tab >= 0) location.hash = address(TABS[tab][0]);
});

document.getElementById("page").replaceChildren();
render(html`<${App} />`, document.getElementById("page"));
listen();
