// One task: its state, why it is so, what can be done, its runs and its traces.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Histogram, Minutes, RunChart } from "./chart.js";
import { act } from "./dialog.js";
import { ownChange } from "./events.js";
import { clock, duration, number, plural, span, words } from "./format.js";
import { Ago, Card, Clock, Facts, Icon, isRegistered, schedule, Since, TaskLink, tone, TraceTools, Until, Why, word } from "./parts.js";
import { address, route, store, useData, useRead } from "./state.js";
import { Traces } from "./trace.js";

// --- actions

const LABELS = { run: "Run now", restart: "Restart", pause: "Pause", resume: "Resume", stop: "Stop…" };
function Actions({ task, neededBy }) {
  const [answer, say] = useState(null);
  const [busy, work] = useState(false);
  const press = (action) => async () => {
    work(true);
    const said = await act(task.name, action, neededBy);
    work(false);
    if (said) say(said);
  };
  if (!store.summary?.control) return null;
  // The service says what the state permits.
  const possible = store.summary.shutting_down ? [] : (task.actions ?? []);
  return html`<div class="actions">
    <p role="status" class=${`answer ${answer?.good === false ? "bad" : "good"}`} id="answer">${answer?.text ?? ""}</p>
    ${["run", "restart", "pause", "resume", "stop"].filter((action) => possible.includes(action)).map((action) => html`<button key=${action} type="button" class=${action === "stop" ? "danger" : ""} data-action=${action} aria-disabled=${busy ? "true" : null} onClick=${busy ? null : press(action)}>${LABELS[action]}</button>`)}
  </div>`;
}

// --- why

function Reasons({ task }) {
  // The service writes times in UTC; here they are the reader's, as all others.
  const texts = (task.reason_texts ?? []).map((text) => text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, (time) => clock(Date.parse(time) / 1000)));
  const bad = task.status === "unhealthy" || task.status === "degraded" || task.state === "failed";
  return html`
    ${bad ? html`<ul class="reasons">${texts.map((text) => html`<li key=${text}><b>${text}</b></li>`)}</ul>` : html`<p>${isRegistered(task) ? texts.join(", ") || "Nothing is wrong." : "It is not registered: it runs when something starts it."}</p>`}
    ${task.unhealthy_since && html`<p>Unhealthy since <${Clock} at=${task.unhealthy_since} /> (<${Since} at=${task.unhealthy_since} />).</p>`}
    ${task.last_error_text && html`<h3>Last error <small><${Ago} at=${task.last_error_time} />, <${Clock} at=${task.last_error_time} /></small></h3>
      <pre id="last-error"><bdi>${task.last_error_text}</bdi></pre>`}
    ${task.last_error_trace && html`<p class="id">Trace <code>${task.last_error_trace}</code> <${TraceTools} id=${task.last_error_trace} /></p>`}
    ${task.decisions?.length > 0 && html`<${Decisions} decisions=${task.decisions} />`}`;
}

// --- decisions

const DECISIONS = { restart: "Restarted", give_up: "Given up", finish: "Finished", stop: "Stopped", pause: "Paused", stand_by: "Stands by" };
const ASKED = { exit: "its end", stall: "no sign of life", request: "a request", group: "its group", dependency: "a task that it depends on", retry: "the next try", gate: "its gate" };
const DECIDED = { restart: "warn", give_up: "bad", finish: "good", stop: "held", pause: "held", stand_by: "held" };

/** One decision, whole: what ended, what was counted, which delay was drawn, who asked. */
function Decision({ decision, open }) {
  const within = decision.window_seconds ? ` within ${span(decision.window_seconds)}` : "";
  const details = useRef(null);
  useEffect(() => void (open && (details.current.open = true)), []);
  return html`<details class="decision" ref=${details}>
    <summary><${Clock} at=${decision.at} /> <${Icon} tone=${DECIDED[decision.decision]} /> <b>${DECISIONS[decision.decision] ?? words(decision.decision)}</b> <span>${words(decision.reason ?? "")}</span></summary>
    <${Facts} pairs=${[
      ["asked by", ASKED[decision.asked_by] ?? (decision.asked_by && words(decision.asked_by))],
      ["run", decision.exit && `${decision.generation ? `${decision.generation}, ` : ""}${decision.exit}${decision.error_type ? `, ${decision.error_type}` : ""}${decision.is_permanent ? ", permanent" : ""}`],
      ["error", decision.error],
      ["count", decision.count !== null && decision.count !== undefined && (decision.limit === null ? `${number(decision.count)}, no limit` : `${number(decision.count)} of ${number(decision.limit)}${within}`)],
      ["delay", decision.delay_seconds !== null && decision.delay_seconds !== undefined && `${duration(decision.delay_seconds)}${decision.attempt ? `, attempt ${decision.attempt}` : ""}${decision.random !== null && decision.random !== undefined ? `, drawn ${Number(decision.random.toFixed(3))}` : ""}`],
      ["next try", decision.retry_after_seconds && `after ${duration(decision.retry_after_seconds)}`],
      ["trace", decision.trace_id && html`<code>${decision.trace_id}</code> <${TraceTools} id=${decision.trace_id} />`],
    ]} />
  </details>`;
}

function Decisions({ decisions }) {
  const newest = decisions.slice().reverse();
  return html`<h3>Why it was restarted or given up</h3>
    ${newest.slice(0, 1).map((decision) => html`<${Decision} key=${decision.id} decision=${decision} open />`)}
    ${newest.length > 1 && html`<details class="settings"><summary>${plural(newest.length - 1, "decision")} before</summary>${newest.slice(1).map((decision) => html`<${Decision} key=${decision.id} decision=${decision} />`)}</details>`}`;
}

function Percentiles({ task }) {
  if (!task.runs) return null;
  const values = [["p50", task.p50_seconds], ["p95", task.p95_seconds], ["longest", task.max_seconds], ["mean", task.average_seconds]];
  return html`<dl class="percentiles">${values.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${duration(value)}</dd></div>`)}</dl>`;
}

const counted = (counts) => counts.filter((count) => count.count).map((count) => `${words(count.what)} ${number(count.count)}`).join(", ") || "none";

function Settings({ settings }) {
  const pairs = Object.entries(settings).filter(([, value]) => value !== null).map(([key, value]) => [words(key.replace(/_seconds$/, "")), key.endsWith("_seconds") ? duration(value) : String(value)]);
  return html`<${Facts} pairs=${pairs} />`;
}

// --- the whole

const PINS = { last_error: "last error", give_up: "give-up", restart: "restart" };

/** The lease of a task that runs on one of several processes. */
const gate = ({ gate: { name, holder, term }, gate_until: until }) => [
  ["gate", name], ["held by", term !== null ? html`this process${holder ? html`, <bdi>${holder}</bdi>` : ""}` : holder ?? "unknown"],
  ["term", term !== null && number(term)], ["ends unless extended", until && html`<${Until} at=${until} due="now" />`],
];

export function Task({ name }) {
  const { rows, summary } = useData();
  const held = useRead(`tasks/${encodeURIComponent(name)}`, (message) => (message.rows ?? []).some((row) => row.name === name) || (message.events ?? []).some((event) => event.task === name));
  const heading = useRef(null);
  const task = held.value;
  const isThere = task !== null;
  useLayoutEffect(() => {
    if (!isThere) return;
    if (route.query.get("show") === "trace") document.getElementById("traces")?.scrollIntoView();
    else heading.current?.focus({ preventScroll: true });
  }, [isThere, name]);
  const back = html`<nav aria-label="Where"><a href=${address("tasks")}>Tasks</a> <span aria-hidden="true">/</span></nav>`;
  if (!task) return html`<div class="title">${back}<h1 ref=${heading} tabindex="-1"><bdi>${name}</bdi></h1></div><p class=${held.error ? "bad" : "loading"} role=${held.error ? "alert" : null}>${held.error?.message ?? "Reading the task…"}</p>`;
  const all = [...rows.values()];
  const neededBy = all.filter((row) => row.depends_on.includes(name));
  const needs = task.depends_on.map((other) => rows.get(other) ?? { name: other });
  const links = (tasks) => tasks.length ? html`<ul class="links">${tasks.map((row) => html`<li key=${row.name}><${Icon} tone=${row.reasons ? tone(row) : "idle"} label=${row.reasons ? word(row) : "unknown"} /> <${TaskLink} name=${row.name} /></li>`)}</ul>` : html`<span class="soft">nothing</span>`;
  const changes = (task.changes ?? []).slice().reverse();
  const none = html`<p class="soft">No run has ended yet.</p>`;
  const pinned = new Map();
  const traces = task.traces && [...task.traces];
  for (const { why, trace, trace_id } of task.pinned ?? []) {
    pinned.set(trace_id, [pinned.get(trace_id), PINS[why] ?? words(why)].filter(Boolean).join(", "));
    if (trace && traces && !traces.some((known) => known.trace_id === trace_id)) traces.push(trace);
  }
  return html`
    <div class="title">${back}<h1 ref=${heading} tabindex="-1"><bdi>${name}</bdi></h1>
      <p class="state ${tone(task)}"><${Icon} tone=${tone(task)} /> <b>${word(task)}</b> <span><${Why} row=${task} /></span></p>
      <${Actions} key=${name} task=${task} neededBy=${neededBy.map((row) => row.name)} /></div>
    ${held.error && html`<p class="bad" role="alert">${held.error.message}</p>`}
    <div class="two">
      <${Card} id="why" title="Why"><${Reasons} task=${task} /></${Card}>
      <${Card} id="changes" title="What changed" note="successful runs left out" scrolls>
        ${changes.length ? html`<ol class="events one">${changes.map(ownChange)}</ol>` : html`<p class="soft">Nothing yet.</p>`}</${Card}>
    </div>
    <${Card} id="traces" title="Traces">
      ${traces ? html`<${Traces} key=${name} traces=${traces} pinned=${pinned} first=${route.query.get("trace") ?? task.last_error_trace} />` : html`<p class="soft">This page is given no spans: see <code>Page::feed</code>.</p>`}</${Card}>
    <div class="two even">
      <${Card} id="runs" title="Runs" note="the last ${task.history.length}, duration in log scale; ✕ failed">
        ${task.history.length ? html`<${RunChart} runs=${task.history} />` : none}</${Card}>
      <${Card} id="minutes" title="Last 60 minutes" note="runs up, errors down">
        ${task.minutes ? html`<${Minutes} runs=${task.minutes.runs} errors=${task.minutes.errors} />` : none}</${Card}>
    </div>
    <div class="two even">
      <${Card} id="durations" title="Durations"><${Percentiles} task=${task} /><${Histogram} buckets=${task.durations} /></${Card}>
      <${Card} id="about" title="About">
        <${Facts} pairs=${[
          ["needs", links(needs)], ["needed by", links(neededBy)],
          ["role", { required: "required: its failure fails the probes", degrades: "degrades the service", ignored: "ignored by the probes" }[task.role]],
          ["schedule", schedule(task)], ["next run", task.next_run && html`<${Until} at=${task.next_run} />`],
          ["state", task.state && html`${task.state}${task.state_since ? html` for <${Since} at=${task.state_since} />` : ""}`],
          ...(task.gate ? gate(task) : []),
          ["first start", task.first_start && html`<${Clock} at=${task.first_start} />`],
          ["last success", task.last_success && html`<${Ago} at=${task.last_success} />`],
          ["last restart", task.last_restart && html`<${Ago} at=${task.last_restart} />`],
          ["runs", `${number(task.runs)} ended, ${number(task.active_runs)} under way`], ["results", counted(task.results)], ["errors", counted(task.error_types)],
          ["restarts", counted(task.restart_reasons)], ["longest poll", task.longest_poll_seconds ? duration(task.longest_poll_seconds) : null],
          ["slow polls", task.slow_polls ? number(task.slow_polls) : null], ["stalls", task.stalls ? number(task.stalls) : null],
          ["skipped iterations", task.skipped_iterations ? number(task.skipped_iterations) : null],
          ["component", task.component], ["category, priority", `${task.category}, ${task.priority}`],
        ]} />
        ${task.settings && html`<details class="settings"><summary>Settings</summary><${Settings} settings=${task.settings} /></details>`}</${Card}>
    </div>`;
}
