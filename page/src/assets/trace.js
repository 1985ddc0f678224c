// Traces as waterfalls. What the reader has opened stays as it is while newer traces come.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { clock, duration, plural } from "./format.js";
import { Icon, TraceTools } from "./parts.js";
import { now } from "./state.js";

const end = (trace, span) => span.offset_seconds + (span.seconds ?? Math.max(0, now() - trace.at - span.offset_seconds));

function Span({ span, trace, whole, depth }) {
  const took = span.seconds === null ? "running" : duration(span.seconds);
  const left = (span.offset_seconds / whole) * 100;
  const width = Math.max(0.3, ((end(trace, span) - span.offset_seconds) / whole) * 100);
  const tone = span.is_error ? "bad" : span.seconds === null ? "warn" : "ok";
  return html`<details class="span">
    <summary><span class="label" style=${{ paddingLeft: `${Math.min(depth, 12) * 14}px` }}>${span.is_error && html`<${Icon} tone="bad" label="failed" />`}<bdi>${span.name}</bdi></span>
      <span class="lane" aria-hidden="true"><i class=${tone} style=${{ left: `${Math.min(left, 99.7)}%`, width: `${Math.min(width, 100 - Math.min(left, 99.7))}%` }}></i></span>
      <span class="took">${took}</span></summary>
    <dl class="facts">
      ${span.status && html`<dt>status</dt><dd><bdi>${span.status}</bdi></dd>`}
      <dt>starts after</dt><dd>${duration(span.offset_seconds)}</dd>
      ${span.attributes.map(([key, value]) => html`<dt key=${key}><bdi>${key}</bdi></dt><dd key=${`${key}=`}><bdi>${value}</bdi></dd>`)}
      ${span.events.map((event, index) => html`<dt key=${`e${index}`}>after ${duration(event.offset_seconds)}</dt><dd key=${`e${index}=`}><bdi>${event.name}</bdi></dd>`)}
    </dl>
  </details>`;
}

function Trace({ trace, open, mark, onOpen }) {
  const details = useRef(null);
  useEffect(() => void (open && (details.current.open = true)), []);
  const whole = Math.max(...trace.spans.map((span) => end(trace, span)), 1e-9);
  const depths = new Map();
  const depth = (span) => {
    const own = depths.has(span.parent_id) ? depths.get(span.parent_id) + 1 : 0;
    depths.set(span.span_id, own);
    return own;
  };
  return html`<details class="trace" ref=${details} data-trace=${trace.trace_id} onToggle=${onOpen}>
    <summary><${Icon} tone=${trace.is_error ? "bad" : trace.seconds === null ? "warn" : "good"} /> <b>${clock(trace.at, now())}</b>
      <span>${trace.seconds === null ? "running" : `${trace.is_error ? "failed after " : ""}${duration(trace.seconds)}`}</span>
      <span class="soft">${plural(trace.spans.length + trace.more, "span")}</span>${mark && html`<span class="pin">${mark}</span>`}</summary>
    <p class="id">Trace <code>${trace.trace_id}</code> <${TraceTools} id=${trace.trace_id} /></p>
    <div class="scale" aria-hidden="true"><span></span><span class="lane">${[0, 0.25, 0.5, 0.75, 1].map((part) => html`<i key=${part} style=${{ left: `${part * 100}%` }}>${part === 0 ? "0" : duration(part * whole)}</i>`)}</span><span></span></div>
    ${trace.spans.map((span) => html`<${Span} key=${span.span_id} span=${span} trace=${trace} whole=${whole} depth=${depth(span)} />`)}
    ${trace.more > 0 && html`<p class="soft">${plural(trace.more, "span")} more.</p>`}
  </details>`;
}

const FIRST = 4;

/**
 * The traces of a task. While one is open, the list holds still: newer ones wait behind a button, and one that the service no
 * longer has stays until the reader closes it.
 */
export function Traces({ traces, pinned, first }) {
  const held = useRef([]);
  const list = useRef(null);
  const [, draw] = useState(0);
  const [all, showAll] = useState(false);
  const open = new Set([...(list.current?.querySelectorAll("details.trace[open]") ?? [])].map((trace) => trace.dataset.trace));
  const fresh = new Map(traces.map((trace) => [trace.trace_id, trace]));
  if (open.size) held.current = held.current.map((trace) => fresh.get(trace.trace_id) ?? trace);
  else held.current = traces;
  const known = new Set(held.current.map((trace) => trace.trace_id));
  const newer = traces.filter((trace) => !known.has(trace.trace_id)).length;
  const more = () => {
    const kept = held.current.filter((trace) => open.has(trace.trace_id) && !fresh.has(trace.trace_id));
    held.current = [...traces, ...kept];
    draw((count) => count + 1);
  };
  // The pinned ones stand where their time is; of the others, some are enough at first.
  const shown = all ? held.current : held.current.filter((trace, index) => index < FIRST || open.has(trace.trace_id) || pinned.has(trace.trace_id) || trace.trace_id === first);
  const initial = first ?? held.current.find((trace) => trace.is_error)?.trace_id ?? held.current[0]?.trace_id;
  return html`<div ref=${list}>
    <p class="newer">${newer > 0 ? html`<button type="button" onClick=${more}>Show ${plural(newer, "newer trace")}</button>` : html`<span class="soft">${held.current.length ? "The newest are shown." : "None lately."}</span>`}</p>
    ${shown.map((trace) => html`<${Trace} key=${trace.trace_id} trace=${trace} mark=${pinned.get(trace.trace_id)} open=${trace.trace_id === initial} onOpen=${() => draw((count) => count + 1)} />`)}
    ${shown.length < held.current.length && html`<p><button type="button" onClick=${() => showAll(true)}>Show ${plural(held.current.length - shown.length, "older trace")}</button></p>`}
  </div>`;
}
