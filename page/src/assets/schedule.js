// Schedule: a lane of 24 hours for each loop.

import { html, useState } from "./vendor/htm-preact.js";
import { duration, minute, number, plural } from "./format.js";
import { Icon, schedule, TaskLink, tone, Until, word } from "./parts.js";
import { useData, useRead, useTick } from "./state.js";

const DAY = 86_400;
/** Runs closer together than this are drawn as a band. */
const APART = DAY / 288;
const LANES = 100;

export function Schedule() {
  const { rows } = useData();
  const now = Math.floor(useTick() / 10) * 10;
  const held = useRead("schedule", () => false, 10_000);
  // The slow ones first, by their next run; what runs every few seconds stands below, by name.
  const isDense = (loop) => loop.interval_seconds !== null && loop.interval_seconds < APART;
  const loops = (held.value?.tasks ?? []).slice().sort((a, b) => isDense(a) - isDense(b) || (isDense(a) ? 0 : (a.next_run ?? Infinity) - (b.next_run ?? Infinity)) || (a.name < b.name ? -1 : 1));
  const x = (at) => `${Math.min(100, Math.max(0, ((at - now) / DAY) * 100))}%`;
  const [most, show] = useState(LANES);
  // Each third whole hour of the shown time zone.
  const quarters = Array.from({ length: DAY / 900 }, (_, index) => (Math.ceil(now / 900) + index) * 900);
  const hours = quarters.filter((at) => /^(0[0369]|1[258]|21):00/.test(minute(at)));
  const lane = (loop) => {
    const row = rows.get(loop.name) ?? { ...loop, state: null, status: null };
    const runs = isDense(loop) ? [] : loop.upcoming.filter((at) => at >= now && at < now + DAY);
    const text = isDense(loop) ? `every ${duration(loop.interval_seconds)}, all day` : `${plural(runs.length, "run")} in 24 h${runs.length ? `: ${runs.slice(0, 6).map(minute).join(", ")}${runs.length > 6 ? ", …" : ""}` : ""}`;
    return html`<tr key=${row.name}><th scope="row"><${Icon} tone=${tone(row)} label=${word(row)} /> <${TaskLink} name=${row.name} /></th>
      <td><div class="lane" role="img" aria-label=${text} title=${text}>${hours.map((at) => html`<i key=${`h${at}`} class="hour" style=${{ left: x(at) }}></i>`)}${isDense(loop) ? html`<i class="band"></i>` : runs.map((at) => html`<i key=${at} style=${{ left: x(at) }}></i>`)}</div></td>
      <td class="number">${row.next_run ? html`<${Until} at=${row.next_run} />` : "–"}</td><td><bdi>${schedule(loop)}</bdi></td></tr>`;
  };
  return html`<h1>Schedule <small>the next 24 hours</small></h1>
    ${held.error ? html`<p class="bad" role="alert">${held.error.message}</p>` : !held.value ? html`<p class="loading">Reading the schedule…</p>` : loops.length === 0 ? html`<p class="card none">No task is a loop.</p>` : html`<div class="card scroll" tabindex="0" role="region" aria-label="Lanes">
    <table class="lanes"><thead><tr><th scope="col">Task</th><th scope="col"><span class="hidden">Runs</span><div class="hours" aria-hidden="true">${hours.map((at) => html`<span key=${at} style=${{ left: x(at) }}>${minute(at)}</span>`)}</div></th><th scope="col" class="number">Next run</th><th scope="col">Schedule</th></tr></thead>
    <tbody>${loops.slice(0, most).map(lane)}</tbody></table></div>`}
    ${loops.length > most && html`<p class="none"><button type="button" onClick=${() => show(most + LANES)}>Show ${number(Math.min(LANES, loops.length - most))} of ${number(loops.length - most)} more</button></p>`}`;
}
