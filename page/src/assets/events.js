// Events: filtered, and as files.

import { html, useEffect, useMemo, useState } from "./vendor/htm-preact.js";
import { number, plural, words } from "./format.js";
import { Clock, Icon, TaskLink } from "./parts.js";
import { address, read, refine, route, useData } from "./state.js";

const TONES = { gave_up: "bad", stalled: "bad", runtime_stalled: "bad", slow_poll: "warn", retrying: "warn", backing_off: "warn", recovered: "good", finished: "good", ready: "good", paused: "held", stopped: "held", standby: "held", pass_granted: "good", pass_lost: "warn" };
/** How bad an event is. */
export function eventTone(event) {
  if (event.kind === "exited") return event.detail.startsWith("success") ? "good" : "bad";
  if (event.kind === "health_changed" || event.kind === "health") return { unhealthy: "bad", degraded: "warn", healthy: "good" }[event.detail] ?? "idle";
  return TONES[event.kind] ?? CHANGES[event.kind] ?? "idle";
}
/** What the task's own ring of changes says of the same. */
const CHANGES = { failed: "bad", restarted: "warn", retried: "warn", resumed: "good" };
const SAYS = { gave_up: "gave up", exited: "ended", backing_off: "restarts after its delay", health_changed: "became", health: "became", retried: "is tried again", slow_poll: "blocks a thread", started: "started", process_resumed: "the process was resumed", standby: "in standby", pass_granted: "may run", pass_lost: "may run no more" };
const said = (event) => SAYS[event.kind] ?? words(event.kind);

const keys = new WeakMap();
let last = 0;
/** Events have no number of their own. */
export function keyOf(event) {
  if (!keys.has(event)) keys.set(event, (last += 1));
  return keys.get(event);
}

/** One line of a task's own changes: equal ones in a row are one. */
export function ownChange(change) {
  const tone = eventTone(change);
  const [what, ...why] = (change.detail || said(change)).split(": ");
  return html`<li key=${change.id}><${Clock} at=${change.at} /><span class="what"><${Icon} tone=${tone} /> <b class=${tone}>${what}</b>${why.length > 0 && html`: <bdi>${why.join(": ")}</bdi>`}
    ${change.count > 1 && html` <span class="pin">${number(change.count)} times until <${Clock} at=${change.until} /></span>`}
    ${change.trace_id && html` <a href=${address("task", route.name, new URLSearchParams({ show: "trace", trace: change.trace_id }))}>trace</a>`}</span></li>`;
}

/** One line: when, which task, what. */
export function changeLine(event, withTask = true) {
  const tone = eventTone(event);
  return html`<li key=${keyOf(event)}><${Clock} at=${event.at} />${withTask && (event.task ? html`<${TaskLink} name=${event.task} />` : html`<span class="soft">service</span>`)}
    <span class="what"><${Icon} tone=${tone} /> <b class=${tone}>${said(event)}</b> <bdi>${event.detail}</bdi></span></li>`;
}

const SHOWN = 200;

function file(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
/** A cell that a spreadsheet does not take for a formula. */
const cell = (value) => `"${String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
export const csv = (events) => ["time,task,kind,detail", ...events.map((event) => [new Date(event.at * 1000).toISOString(), event.task, event.kind, event.detail].map(cell).join(","))].join("\r\n");

export function Events() {
  const { events: streamed, version } = useData();
  const [before, set] = useState({ events: [], missed: 0 });
  const [most, show] = useState(SHOWN);
  useEffect(() => void read("events/recent").then(set, () => {}), []);
  const query = route.query;
  // What was there before this tab listened, then what it heard.
  const all = useMemo(() => {
    const first = streamed[0]?.at ?? Infinity;
    return [...before.events.filter((event) => event.at < first), ...streamed];
  }, [before, version]);
  const kinds = [...new Set(all.map((event) => event.kind))].sort();
  const [kind, task, text] = ["kind", "task", "q"].map((key) => query.get(key) ?? "");
  const routine = query.get("routine") === "1";
  const found = all.filter((event) => (routine || kind || eventTone(event) !== "good" || event.kind !== "exited") && (!kind || event.kind === kind) && (!task || (event.task ?? "").includes(task)) && (!text || `${event.detail} ${event.kind}`.toLowerCase().includes(text.toLowerCase())));
  found.reverse();
  return html`<h1>Events</h1>
    <form class="bar" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input id="search" type="search" placeholder="Filter: words of the detail" aria-label="Words" autocomplete="off" value=${text} onInput=${(event) => refine({ q: event.currentTarget.value })} />
      <label>Task <input type="search" size="16" autocomplete="off" value=${task} onInput=${(event) => refine({ task: event.currentTarget.value })} /></label>
      <label>Kind <select value=${kind} onChange=${(event) => refine({ kind: event.currentTarget.value })}><option value="">all</option>${kinds.map((name) => html`<option key=${name} value=${name}>${words(name)}</option>`)}</select></label>
      <label><input type="checkbox" checked=${routine} onChange=${(event) => refine({ routine: event.currentTarget.checked ? "1" : "" })} /> successful runs</label>
      <span class="buttons"><button type="button" onClick=${() => file("events.json", "application/json", JSON.stringify(found, null, 1))}>JSON</button>
      <button type="button" onClick=${() => file("events.csv", "text/csv", csv(found))}>CSV</button></span>
    </form>
    <section class="card" aria-label="Events, the newest first"><div class="body">
      <p class="soft">${plural(found.length, "event")} of ${number(all.length)}, the newest first${before.missed ? `; ${number(before.missed)} older ones were dropped unread` : ""}.</p>
      <ol class="events">${found.slice(0, most).map((event) => changeLine(event))}</ol>
      ${found.length > most && html`<p><button type="button" onClick=${() => show(most + SHOWN)}>Show ${number(Math.min(SHOWN, found.length - most))} more</button></p>`}
    </div></section>`;
}
