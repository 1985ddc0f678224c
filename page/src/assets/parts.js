// Small parts that every view uses, and how a task is said in the words of the page.

import { Component, html, useState } from "./vendor/htm-preact.js";
import { clock, duration, full, plural, short, span, words } from "./format.js";
import { now, store, taskAddress, useTick } from "./state.js";

// --- parts

const ICONS = {
  bad: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1M5.400 4.300 8 6.900l2.600-2.600 1.100 1.100L9.100 8l2.600 2.600-1.100 1.100L8 9.100l-2.600 2.600-1.100-1.100L6.900 8 4.300 5.400z",
  warn: "M8 1.200.8 14.500h14.400zM7.200 6h1.600v4.200H7.200zm0 5.300h1.600v1.600H7.200z",
  good: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1m3.200 4.300 1.100 1.100-5.200 5.300-3.300-3.300 1.100-1.100 2.200 2.200z",
  idle: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1m0 1.600a5.400 5.400 0 1 1 0 10.800A5.400 5.400 0 0 1 8 2.600",
  held: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1M5.500 5h1.700v6H5.500zm3.300 0h1.700v6H8.800z",
};
/** The shape says the same as the colour. */
export const Icon = ({ tone, label }) => html`<svg class="icon ${tone}" viewBox="0 0 16 16" role=${label ? "img" : null} aria-label=${label} aria-hidden=${label ? null : "true"}><path fill-rule="evenodd" d=${ICONS[tone] ?? ICONS.idle} /></svg>`;

/** How long ago; grows by itself. */
export function Ago({ at, suffix = " ago" }) {
  const away = useTick() - at;
  return html`<time title=${full(at)}>${away < 1 ? "now" : `${short(away)}${suffix}`}</time>`;
}
/** How long until; shrinks by itself. */
export function Until({ at, due = "due" }) {
  const away = at - useTick();
  return html`<time title=${full(at)}>${away < 0.05 ? due : `in ${short(away)}`}</time>`;
}
export const Clock = ({ at }) => html`<time title=${full(at)}>${clock(at, now())}</time>`;
/** A length of time that grows. */
export const Since = ({ at }) => html`<span class="number">${span(useTick() - at)}</span>`;

export function Copy({ text, what }) {
  const [said, say] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say("Copied");
    } catch {
      say("Not allowed");
    }
    setTimeout(() => say(""), 2000);
  };
  return html`<button type="button" class="small" aria-label=${`Copy ${what}`} onClick=${copy}>${said || "Copy"}</button>`;
}

/** A user's text: its direction stays its own. */
export const Own = ({ children }) => html`<bdi>${children}</bdi>`;
export const TaskLink = ({ name, query }) => html`<a href=${taskAddress(name, query)} title=${name}><bdi>${name}</bdi></a>`;

/** A card with a heading; one that scrolls can be scrolled by keyboard. */
export const Card = ({ title, note, children, scrolls, id }) => html`<section class="card ${scrolls ? "low" : ""}" aria-labelledby=${id}>
  <h2 id=${id}>${title}${note && html` <small>${note}</small>`}</h2><div class="body" tabindex=${scrolls ? "0" : null} role=${scrolls ? "group" : null} aria-labelledby=${scrolls ? id : null}>${children}</div></section>`;

export const Facts = ({ pairs }) => html`<dl class="facts">${pairs.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false).map(([key, value]) => html`<dt key=${key}>${key}</dt><dd key=${`${key}.`}>${typeof value === "string" ? html`<bdi>${value}</bdi>` : value}</dd>`)}</dl>`;

/** Its content is drawn again only when one of its properties is another. */
export class Kept extends Component {
  shouldComponentUpdate(next) {
    return Object.keys(next).some((key) => key !== "children" && next[key] !== this.props[key]);
  }
  render({ draw, ...rest }) {
    return draw(rest);
  }
}

// --- trace links

const NAMES = [["jaeger", "Jaeger"], ["tempo", "Tempo"], ["grafana", "Grafana"], ["zipkin", "Zipkin"], ["honeycomb", "Honeycomb"], ["datadog", "Datadog"]];
/** Links to a trace where `Page::trace_link` says, and what copies its id. */
export function TraceTools({ id }) {
  const template = store.summary?.trace_link;
  const known = NAMES.find(([word]) => template?.toLowerCase().includes(word));
  return html`<span class="tools">
    ${template && html`<a href=${template.replaceAll("{trace_id}", id)} target="_blank" rel="noopener noreferrer">${known ? known[1] : "Open trace"} ↗</a>`}
    <${Copy} text=${id} what="trace id" />
  </span>`;
}

// --- words

const REASONS = {
  error_rate: "too many errors", failures_in_a_row: "failures in a row", restarts: "too many restarts", failed: "given up", stalled: "no sign of life",
  runtime_gone: "its runtime is gone", backing_off: "waits for its restart", recovering: "recovering", not_started: "not started", waits_for: "waits for others", not_ready: "not ready yet",
  paused: "paused", standby: "its gate is closed", draining: "draining", shutting_down: "shutting down",
};
export const reason = (name) => REASONS[name] ?? words(name);

export const TONES = { unhealthy: "bad", degraded: "warn", healthy: "good" };
export const isRegistered = (row) => row.status !== null && row.status !== undefined;
export function tone(row) {
  if (!isRegistered(row)) return "idle";
  if (row.status === "healthy" && ["paused", "stopped", "standby"].includes(row.state)) return "held";
  return TONES[row.status] ?? "idle";
}

/** The task in one word, which the service says. */
export const word = (row) => row.word;

/** When a loop runs: an interval as every duration is written here, and a calendar as the service says it. */
export function schedule({ schedule, interval_seconds }) {
  const isInterval = !schedule || /^every \S+$/.test(schedule);
  return isInterval && interval_seconds ? `every ${duration(interval_seconds)}` : schedule ?? "";
}

/** What stands after the word: when it is tried again, or why it is as it is. */
export function Why({ row }) {
  if (row.word_until) return html`${row.state === "failed" ? "next try " : ""}<${Until} at=${row.word_until} due="now" />`;
  if (row.state === "failed") return html`given up${row.state_since ? html` <${Ago} at=${row.state_since} />` : ""}`;
  if (row.status === "unhealthy" || row.status === "degraded") return row.reasons.map(reason).join(", ") || words(row.state ?? "");
  if (row.state === "waiting") return row.depends_on.length ? html`waits for <bdi>${row.depends_on.join(", ")}</bdi>` : "not begun yet";
  if (row.state === "standby") return row.gate?.holder ? html`<bdi>${row.gate.name}</bdi> is held by <bdi>${row.gate.holder}</bdi>` : reason("standby");
  if (row.schedule || row.interval_seconds !== null) return html`<bdi>${schedule(row)}</bdi>`;
  if (row.members) return plural(row.members, "member");
  if (!isRegistered(row)) return row.active_runs > 0 ? plural(row.active_runs, "run") : "on demand";
  return row.state_since ? html`${row.state} for <${Since} at=${row.state_since} />` : row.state ?? "";
}

const ORDER = { bad: 0, warn: 1, held: 2, good: 3, idle: 4 };
// A row that changes is another object: thousands are sorted with each update, and few have changed.
const urgencies = new WeakMap();
/** Small first: what needs attention; what was given up before what still tries. */
export function urgency(row) {
  if (!urgencies.has(row)) urgencies.set(row, ORDER[tone(row)] - (row.state === "failed" ? 0.5 : 0));
  return urgencies.get(row);
}
