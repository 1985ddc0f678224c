// Schedule: a lane of 24 hours for each loop.

import { html } from "./vendor/htm-preact.js";
import { clock, duration, minute, plural } from "./format.js";
import { Icon, TaskLink, tone, Until, word } from "./parts.js";
import { useData, useTick } from "./state.js";

const DAY = 86_400;
/** Runs closer together than this are drawn as a band. */
const APART = DAY / 288;

/** The runs of the next 24 hours as far as the interval tells them. */
function coming(row, now) {
  if (row.upcoming) return row.upcoming.filter((at) => at < now + DAY);
  const runs = [];
  if (!row.interval_seconds || row.interval_seconds < APART) return runs;
  for (let at = row.next_run; at < now + DAY; at += row.interval_seconds) runs.push(at);
  return runs;
}

export function Schedule() {
  const { rows } = useData();
  const now = Math.floor(useTick() / 10) * 10;
  const loops = [...rows.values()].filter((row) => row.next_run || row.interval_seconds).sort((a, b) => (a.next_run ?? Infinity) - (b.next_run ?? Infinity) || (a.name < b.name ? -1 : 1));
  const x = (at) => `${Math.min(100, Math.max(0, ((at - now) / DAY) * 100))}%`;
  const hours = Array.from({ length: 9 }, (_, index) => now + index * 3 * 3600);
  const lane = (row) => {
    const runs = coming(row, now);
    const isDense = !row.upcoming && row.interval_seconds && row.interval_seconds < APART;
    const text = isDense ? `every ${duration(row.interval_seconds)}, all day` : `${plural(runs.length, "run")} in 24 h${runs.length ? `: ${runs.slice(0, 6).map(minute).join(", ")}${runs.length > 6 ? ", …" : ""}` : ""}`;
    return html`<tr key=${row.name}><th scope="row"><${Icon} tone=${tone(row)} label=${word(row)} /> <${TaskLink} name=${row.name} /></th>
      <td><div class="lane" role="img" aria-label=${text} title=${text}>${isDense ? html`<i class="band"></i>` : runs.map((at) => html`<i key=${at} style=${{ left: x(at) }}></i>`)}</div></td>
      <td class="number">${row.next_run ? html`<${Until} at=${row.next_run} />` : "–"}</td><td>${row.schedule ?? (row.interval_seconds ? `every ${duration(row.interval_seconds)}` : "")}</td></tr>`;
  };
  return html`<h1>Schedule <small>the next 24 hours</small></h1>
    ${loops.length === 0 ? html`<p class="card none">No task is a loop.</p>` : html`<div class="card scroll" tabindex="0" role="region" aria-label="Lanes">
    <table class="lanes"><thead><tr><th scope="col">Task</th><th scope="col"><span class="hidden">Runs</span><div class="hours" aria-hidden="true">${hours.slice(0, -1).map((at, index) => html`<span key=${index} style=${{ left: `${index * 12.5}%` }}>${minute(at)}</span>`)}</div></th><th scope="col" class="number">Next run</th><th scope="col">Schedule</th></tr></thead>
    <tbody>${loops.map(lane)}</tbody></table></div>`}`;
}
