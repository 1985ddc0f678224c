// Charts: each has axes, and its values can be read by pointer, by touch and by keyboard.

import { html, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { capital, clock, duration, minute, number, plural } from "./format.js";

/** Runs up, errors down, minute by minute, the newest at the right. */
export function Sparkline({ runs, errors, wide = false }) {
  const count = runs.length;
  const [width, up, down] = [count * 2, 13, 7];
  const sum = (values) => values.reduce((sum, value) => sum + value, 0);
  const most = Math.max(...runs, 1);
  const worst = Math.max(...errors, 1);
  const bars = (values, height) => values.map((value, index) => (value ? `M${index * 2 + 1} ${up}v${height(value).toFixed(1)}` : "")).join("");
  const label = `${plural(sum(runs), "run")} and ${plural(sum(errors), "error")} in ${count} min, at most ${plural(Math.max(...runs, 0), "run")} a minute`;
  return html`<svg class="spark ${wide ? "wide" : ""}" viewBox="0 0 ${width} ${up + down}" preserveAspectRatio="none" role="img" aria-label=${label}>
    <title>${label}</title>
    <path class="base" d="M0 ${up}H${width}" />
    <path class="ok" d=${bars(runs, (value) => -Math.max(1.5, (value / most) * up))} />
    <path class="bad" d=${bars(errors, (value) => Math.max(2, (value / worst) * down))} />
  </svg>`;
}

function useWidth() {
  const box = useRef(null);
  const [width, set] = useState(600);
  useLayoutEffect(() => {
    const seen = new ResizeObserver(([entry]) => set(Math.max(240, Math.round(entry.contentRect.width))));
    seen.observe(box.current);
    return () => seen.disconnect();
  }, []);
  return [box, width];
}

/** A chart with one chosen point: the arrows, a touch and the pointer choose another, and its value stands below. */
function Plot({ name, label, keys, text, height, draw, after, first = keys.length - 1 }) {
  const [box, width] = useWidth();
  const [chosen, choose] = useState(null);
  const last = keys.length - 1;
  const found = keys.indexOf(chosen);
  const at = found < 0 ? first : found;
  const { xs, body } = draw(width, at);
  const point = (event) => {
    const x = event.clientX - event.currentTarget.getBoundingClientRect().left;
    let best = 0;
    for (let index = 1; index < xs.length; index += 1) if (Math.abs(xs[index] - x) < Math.abs(xs[best] - x)) best = index;
    choose(keys[best]);
  };
  const press = (event) => {
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: last, PageUp: at - 10, PageDown: at + 10 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    choose(keys[Math.min(last, Math.max(0, to))]);
  };
  return html`<div class="plot" ref=${box}>
    <svg width=${width} height=${height} role="slider" tabindex="0" aria-label=${label} aria-valuemin="1" aria-valuemax=${keys.length}
      aria-valuenow=${at + 1} aria-valuetext=${text(at)} data-chart=${name} onKeyDown=${press} onPointerDown=${point} onPointerMove=${point}>${body}</svg>
    <p class="value"><b>${text(at)}</b> ${after?.(at)}</p>
  </div>`;
}

const LEFT = 58;
const RIGHT = 14;

/** The last ended runs: when, how long (log scale), and how they ended; a failure has another shape. */
export function RunChart({ runs, after }) {
  const [top, floor, height] = [12, 132, 156];
  const seconds = runs.map((run) => Math.max(run.seconds, 1e-6));
  const low = Math.floor(Math.log10(Math.min(...seconds)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...seconds))));
  const [from, until] = [runs[0].started, Math.max(runs.at(-1).started, runs[0].started + 1)];
  const y = (value) => floor - ((Math.log10(Math.max(value, 1e-6)) - low) / (high - low)) * (floor - top);
  const decades = Array.from({ length: high - low + 1 }, (_, index) => low + index).filter((_, index, all) => index % Math.ceil(all.length / 5) === 0);
  const text = (at) => `${clock(runs[at].started)}: ${runs[at].result} after ${duration(runs[at].seconds)}`;
  const draw = (width, at) => {
    const x = (time) => LEFT + 8 + ((time - from) / (until - from)) * (width - LEFT - RIGHT - 16);
    const xs = runs.map((run) => x(run.started));
    const good = runs.map((run, index) => (run.result === "success" ? `M${xs[index] - 2.5} ${y(run.seconds)}a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0` : "")).join("");
    const cross = (test) => runs.map((run, index) => (test(run.result) ? `M${xs[index] - 4} ${y(run.seconds) - 4}l8 8m0-8l-8 8` : "")).join("");
    return {
      xs,
      body: html`<path class="grid" d=${decades.map((decade) => `M${LEFT} ${y(10 ** decade)}H${width - RIGHT}`).join("")} />
        ${decades.map((decade) => html`<text key=${decade} x=${LEFT - 8} y=${y(10 ** decade) + 4} text-anchor="end">${duration(10 ** decade)}</text>`)}
        ${[0, 0.5, 1].map((part) => html`<text key=${`t${part}`} x=${x(from + part * (until - from))} y=${height - 6} text-anchor=${["start", "middle", "end"][part * 2]}>${until - from < 300 ? clock(from + part * (until - from)) : minute(from + part * (until - from))}</text>`)}
        <path class="chosen" d="M${xs[at]} ${top - 6}V${floor + 4}" />
        <path class="dots" d=${good} /><path class="cross soft" d=${cross((result) => result === "cancellation")} />
        <path class="cross" d=${cross((result) => result !== "success" && result !== "cancellation")} />`,
    };
  };
  return html`<${Plot} name="runs" label="The last ${runs.length} runs" keys=${runs.map((run) => run.started)} text=${text} height=${height} draw=${draw} after=${(at) => after?.(runs[at])} />`;
}

/** Ended runs by duration. */
export function Histogram({ buckets }) {
  const used = buckets.map((bucket) => bucket.runs > 0);
  const [first, end] = [used.indexOf(true), used.lastIndexOf(true)];
  if (first < 0) return html`<p class="soft">No run has ended yet.</p>`;
  const part = buckets.slice(Math.max(0, first - 1), end + 2);
  const [top, floor, height] = [12, 132, 156];
  const most = Math.max(...part.map((bucket) => bucket.runs));
  const bound = (bucket, index) => (bucket.at_most_seconds === null ? `> ${duration(part[index - 1]?.at_most_seconds ?? 0)}` : `≤ ${duration(bucket.at_most_seconds)}`);
  const y = (runs) => floor - (runs / most) * (floor - top);
  const marks = most > 1 ? [0, Math.round(most / 2), most] : [0, 1];
  const draw = (width, at) => {
    const step = (width - LEFT - RIGHT) / part.length;
    const every = Math.ceil(66 / step);
    return {
      xs: part.map((_, index) => LEFT + (index + 0.5) * step),
      body: html`<path class="grid" d=${marks.map((mark) => `M${LEFT} ${y(mark)}H${width - RIGHT}`).join("")} />
        ${marks.map((mark) => html`<text key=${mark} x=${LEFT - 8} y=${y(mark) + 4} text-anchor="end">${number(mark)}</text>`)}
        ${part.map((bucket, index) => {
          const tall = bucket.runs ? Math.max(2, floor - y(bucket.runs)) : 0;
          return html`<g key=${`b${index}`}>
            <rect class=${index === at ? "bar now" : "bar"} x=${LEFT + index * step + 2} y=${floor - tall} width=${Math.max(1, step - 4)} height=${tall} />
            ${index % every === 0 && html`<text x=${LEFT + (index + 0.5) * step} y=${height - 6} text-anchor="middle">${bound(bucket, index)}</text>`}
          </g>`;
        })}`,
    };
  };
  return html`<${Plot} name="durations" label="Ended runs by duration" keys=${part.map(bound)} first=${part.findIndex((bucket) => bucket.runs === most)} text=${(at) => `${bound(part[at], at)}: ${plural(part[at].runs, "run")}`} height=${height} draw=${draw} />`;
}

/** Runs and errors of the last hour, minute by minute. */
export function Minutes({ runs, errors }) {
  const [top, line, floor, height] = [12, 92, 132, 156];
  const most = Math.max(...runs, 1);
  const worst = Math.max(...errors, 1);
  const begun = (at) => (at >= runs.length - 1 ? "now" : `${runs.length - 1 - Math.round(at)} min ago`);
  const text = (at) => `${capital(begun(at))}: ${plural(runs[at], "run")}, ${plural(errors[at], "error")}`;
  const draw = (width, at) => {
    const step = (width - LEFT - RIGHT) / runs.length;
    const x = (index) => LEFT + index * step;
    const bars = (values, height) => values.map((value, index) => (value ? `M${x(index) + step * 0.15} ${line}h${step * 0.7}v${height(value).toFixed(1)}h${-step * 0.7}z` : "")).join("");
    return {
      xs: runs.map((_, index) => x(index + 0.5)),
      body: html`<path class="grid" d=${`M${LEFT} ${top}H${width - RIGHT}M${LEFT} ${line}H${width - RIGHT}M${LEFT} ${floor}H${width - RIGHT}`} />
        <text x=${LEFT - 8} y=${top + 4} text-anchor="end">${number(most)}</text>
        <text x=${LEFT - 8} y=${line + 4} text-anchor="end">0</text>
        <text x=${LEFT - 8} y=${floor + 4} text-anchor="end">${plural(worst, "err.").replace("err.s", "err.")}</text>
        <path class="chosen" d="M${x(at + 0.5)} ${top - 6}V${floor + 4}" />
        <path class="bar" d=${bars(runs, (value) => -Math.max(2, (value / most) * (line - top)))} />
        <path class="bar bad" d=${bars(errors, (value) => Math.max(2, (value / worst) * (floor - line)))} />
        ${[0, 0.5, 1].map((part) => html`<text key=${part} x=${x(part * runs.length)} y=${height - 6} text-anchor=${["start", "middle", "end"][part * 2]}>${begun(part * (runs.length - 1))}</text>`)}`,
    };
  };
  return html`<${Plot} name="minutes" label="Runs and errors per minute, ${runs.length} min" keys=${runs.map((_, index) => index)} text=${text} height=${height} draw=${draw} />`;
}
