// All tasks: what fails and since when, counts, the table, what changed, and what runs next.

import { html, useEffect, useMemo, useState } from "./vendor/htm-preact.js";
import { Sparkline } from "./chart.js";
import { act } from "./dialog.js";
import { capital, duration, number, percent, plural } from "./format.js";
import { Ago, Card, Clock, Icon, isRegistered, Kept, reason, schedule, Since, TaskLink, tone, TONES, Until, urgency, Why, word } from "./parts.js";
import { address, now, refine, route, store, taskAddress, useData } from "./state.js";
import { changeLine } from "./events.js";

/** So many tasks are on one page of the table: a larger table costs each update, and is not read. */
const PAGE = 50;

// --- the sentence

const list = (texts) => texts.join(", ").replace(/, ([^,]*)$/, " and $1");

/** One sentence: which probe fails for which task, since when; or that all is well. */
export function Verdict({ summary, rows }) {
  const { failing } = summary;
  const probes = [["is_live", "liveness"], ["is_ready", "readiness"], ["has_started", "startup"]].filter(([key]) => !summary[key]).map(([, name]) => name);
  const ill = rows.filter((row) => isRegistered(row) && row.status !== "healthy").sort(attention);
  const named = failing.map((entry) => summaryRow(entry.task)).find(Boolean);
  const first = named ?? (failing.length ? null : ill[0]);
  const since = failing.map((entry) => entry.since).filter(Boolean).sort()[0] ?? (first && (first.unhealthy_since ?? first.state_since));
  const level = probes.length ? "bad" : ill.length ? "warn" : "good";
  const title = probes.length ? `${capital(list(probes))} failing` : ill.length ? "Probes passing, degraded" : "All passing";
  const tasks = new Set([...failing.map((entry) => entry.task).filter(Boolean), ...ill.map((row) => row.name)]);
  const others = tasks.size - (first ? 1 : 0);
  const whole = failing.find((entry) => entry.task === null);
  const [answer, say] = useState(null);
  const restart = async () => say(await act(first.name, "restart"));
  return html`<section class="verdict ${level}" aria-label="Health of the service">
    <${Icon} tone=${level} />
    <div>
      <p><b>${title}</b>${level !== "good" && since ? html` since <${Clock} at=${since} /> (<${Since} at=${since} />)` : ""}${
        first ? html`: <${TaskLink} name=${first.name} /> ${word(first).toLowerCase()}, <${Why} row=${first} />` : whole ? `: ${whole.reasons.map(reason).join(", ")}` : ""}${
        others > 0 && first ? `; ${plural(others, "more task")} ${others === 1 ? "needs" : "need"} attention` : ""}${level === "good" ? ` · ${plural(summary.registered, "task")} live, ready and started` : ""}</p>
      ${first?.last_error && html`<p class="cause"><bdi>${first.last_error}</bdi></p>`}
      ${summary.blocked.map((blocked) => html`<p key=${blocked.task}><b><bdi>${blocked.task}</bdi></b> blocks the thread <bdi>${blocked.thread}</bdi> for ${duration(blocked.seconds)}.</p>`)}
      ${summary.runtime_stalled && html`<p>The runtime runs nothing.</p>`}
    </div>
    ${first && html`<div class="buttons">
      <span role="status" class=${answer?.good === false ? "bad" : "good"}>${answer?.text}</span>
      ${first.last_error && summary.traces && html`<a class="button" href=${taskAddress(first.name, new URLSearchParams({ show: "trace" }))}>Show trace</a>`}
      ${summary.control && first.state === "failed" && html`<button type="button" onClick=${restart}>Restart</button>`}
    </div>`}
  </section>`;
}
const summaryRow = (name) => (name ? store.rows.get(name) : undefined);

// --- counts, which filter

const groupOf = (row) => (isRegistered(row) ? row.status : "idle");
const LAST = (values, count) => values.slice(-count).reduce((sum, value) => sum + value, 0);

function Tiles({ rows, chosen }) {
  const counts = { unhealthy: 0, degraded: 0, healthy: 0, idle: 0 };
  let [recent, errors, restarts, known] = [0, 0, 0, false];
  for (const row of rows) {
    counts[groupOf(row)] += 1;
    restarts += row.restarts_last_hour;
    if (!row.minutes) continue;
    known = true;
    recent += LAST(row.minutes.runs, 5);
    errors += LAST(row.minutes.errors, 5);
  }
  const tile = (key, title, kind) => html`<button type="button" class="tile ${counts[key] ? kind : ""}" aria-pressed=${chosen === key} onClick=${() => refine({ is: chosen === key ? "" : key, page: "" })}>
    <span><${Icon} tone=${kind} /> ${title}</span><strong>${number(counts[key])}</strong></button>`;
  const figure = (title, value) => html`<div class="tile"><span>${title}</span><strong>${value}</strong></div>`;
  return html`<div class="tiles" role="group" aria-label="Counts; a state shows its tasks alone">
    ${tile("unhealthy", "Unhealthy", "bad")}${tile("degraded", "Degraded", "warn")}${tile("healthy", "Healthy", "good")}${tile("idle", "On demand", "idle")}
    ${known && figure("Runs a minute", number(Math.round(recent / lastMinutes())))}
    ${known && figure("Errors, 5 min", recent ? percent(errors / recent) : "–")}
    ${figure("Restarts, 1 h", number(restarts))}
  </div>`;
}

// --- the table

const COLUMNS = [
  { key: "name", title: "Task", of: (row) => row.name },
  { key: "status", title: "Status", of: urgency },
  { key: "minutes", title: "Last 60 min", of: (row) => -(row.minutes ? LAST(row.minutes.errors, 60) : 0), css: "spark" },
  { key: "runs", title: "Runs", of: (row) => -row.runs, css: "number" },
  { key: "errors", title: "Errors", of: (row) => -row.errors, css: "number" },
  { key: "p95", title: "p95", of: (row) => -(row.p95_seconds ?? -1), css: "number" },
  { key: "next", title: "Next run", of: (row) => row.next_run ?? Infinity, css: "number" },
  { key: "error", title: "Last error", of: (row) => -(row.last_error_time ?? 0), css: "error" },
];

function compare(column) {
  return (a, b) => {
    const [left, right] = [column.of(a), column.of(b)];
    return (left < right ? -1 : left > right ? 1 : 0) || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  };
}
const attention = (a, b) => urgency(a) - urgency(b) || (isUrgent(a) ? (b.last_error_time ?? 0) - (a.last_error_time ?? 0) : 0) || (a.name < b.name ? -1 : 1);
const isUrgent = (row) => urgency(row) < 2;

/** `state:failed component:chat words`: each must be met. */
function matches(text) {
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map((part) => {
    const [, key, value] = part.match(/^(state|status|component|category|priority|family|name):(.*)$/) ?? [];
    if (key === "state" || key === "status") return (row) => `${row.state ?? "idle"} ${row.status ?? "idle"} ${word(row)}`.toLowerCase().includes(value);
    if (key) return (row) => `${row[key] ?? ""}`.toLowerCase().includes(value);
    return (row) => `${row.name} ${row.component ?? ""} ${word(row)} ${row.state ?? ""} ${row.category} ${row.reasons.join(" ")} ${row.last_error ?? ""}`.toLowerCase().includes(part);
  });
  return (row) => tests.every((test) => test(row));
}

/** What the table lists: headings and tasks, with how far each is indented. */
function listed(rows, query) {
  const is = query.get("is");
  const found = rows.filter((row) => !is || groupOf(row) === is).filter(matches(query.get("q") ?? ""));
  const column = COLUMNS.find((column) => column.key === query.get("sort"));
  found.sort(column ? compare(column) : attention);
  if (column && query.get("down")) found.reverse();
  const group = query.get("group");
  if (group === "component") {
    const groups = new Map();
    for (const row of found) groups.set(row.component ?? "", [...(groups.get(row.component ?? "") ?? []), row]);
    return [...groups].sort(([a], [b]) => (a === "") - (b === "") || (a < b ? -1 : 1)).flatMap(([name, rows]) => [{ heading: name || "No component", count: rows.length }, ...rows.map((row) => ({ row, depth: 0 }))]);
  }
  if (group === "dependency") {
    const known = new Set(found.map((row) => row.name));
    const under = new Map();
    for (const row of found) {
      const above = row.depends_on.find((name) => known.has(name)) ?? (known.has(row.family) ? row.family : "");
      under.set(above, [...(under.get(above) ?? []), row]);
    }
    const list = [];
    const visit = (name, depth) => {
      for (const row of under.get(name) ?? []) {
        list.push({ row, depth });
        if (row.name !== "") visit(row.name, depth + 1);
      }
    };
    visit("", 0);
    return list;
  }
  return found.map((row) => ({ row, depth: 0 }));
}

/** The last five minutes, or as many as there were. */
const lastMinutes = () => Math.min(5, Math.max(1, (now() - store.summary.started) / 60));
const rate = (row) => {
  if (!row.minutes) return null;
  const runs = LAST(row.minutes.runs, 5);
  return runs ? { runs: runs / lastMinutes(), failed: LAST(row.minutes.errors, 5) / runs } : null;
};

function drawRow({ row, depth }) {
  const lately = rate(row);
  const kind = isRegistered(row) ? TONES[row.status] : "idle";
  const href = taskAddress(row.name);
  return html`<tr class="task ${kind}" data-name=${row.name} role="row">
    <th scope="row" role="rowheader" class="name" style=${depth ? { paddingLeft: `${12 + depth * 18}px` } : {}}><span><${Icon} tone=${tone(row)} /><a href=${href} title=${row.name}><bdi>${row.name}</bdi></a></span>${row.component && html`<small><bdi>${row.component}</bdi></small>`}</th>
    <td role="cell" class="status"><b>${word(row)}</b><small><${Why} row=${row} /></small></td>
    <td role="cell" class="spark">${row.minutes ? html`<${Sparkline} runs=${row.minutes.runs} errors=${row.minutes.errors} />` : html`<span class="soft">–</span>`}</td>
    <td role="cell" class="number">${number(row.runs)}${lately?.runs > 0 ? html`<small title="mean of the last 5 minutes">${Number(lately.runs.toPrecision(2))}/min</small>` : row.active_runs > 0 && html`<small>${number(row.active_runs)} now</small>`}</td>
    <td role="cell" class="number">${row.errors > 0 ? number(row.errors) : html`<span class="soft">0</span>`}${lately?.failed > 0 && html`<small title="of the runs of the last 5 minutes">${percent(lately.failed)}</small>`}</td>
    <td role="cell" class="number">${duration(row.p95_seconds)}</td>
    <td role="cell" class="number">${row.next_run ? html`<${Until} at=${row.next_run} />` : html`<span class="soft">–</span>`}</td>
    <td role="cell" class="error">${row.last_error && html`<small><${Ago} at=${row.last_error_time} /></small><span title=${row.last_error}><bdi>${row.last_error}</bdi></span>`}</td>
  </tr>`;
}

const move = (event) => {
  const rows = [...event.currentTarget.querySelectorAll("tr.task a")];
  const at = rows.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (at < 0 || to === undefined || !rows[to]) return;
  event.preventDefault();
  rows[to].focus();
};
const openRow = (event) => {
  const name = event.target.closest("tr.task")?.dataset.name;
  // Who selects text or follows a link does that.
  if (name !== undefined && !event.target.closest("a") && getSelection().isCollapsed) location.hash = taskAddress(name);
};

function Table({ rows, query }) {
  const began = performance.now();
  const list = listed(rows, query);
  const pages = Math.max(1, Math.ceil(list.length / PAGE));
  const page = Math.min(pages, Math.max(1, Number(query.get("page")) || 1));
  const part = list.slice((page - 1) * PAGE, page * PAGE);
  useEffect(() => void performance.measure("update", { start: began, end: performance.now() }));
  const sort = query.get("sort");
  const turn = (key) => refine(sort === key ? (query.get("down") ? { sort: "", down: "", page: "" } : { down: "1", page: "" }) : { sort: key, down: "", page: "" });
  const head = (column) => html`<th key=${column.key} scope="col" role="columnheader" class=${column.css} aria-sort=${sort === column.key ? (query.get("down") ? "descending" : "ascending") : null}>
    <button type="button" onClick=${() => turn(column.key)}>${column.title}<span aria-hidden="true">${sort === column.key ? (query.get("down") ? " ▾" : " ▴") : ""}</span></button></th>`;
  const filtered = list.filter((item) => item.row).length;
  return html`<div class="card">
    <table id="tasks" role="table" aria-label="Tasks" onClick=${openRow} onKeyDown=${move}>
      <thead role="rowgroup"><tr role="row">${COLUMNS.map(head)}</tr></thead>
      <tbody role="rowgroup">${part.map((item) => (item.row ? html`<${Kept} key=${item.row.name} draw=${drawRow} row=${item.row} depth=${item.depth} />` : html`<tr key=${`:${item.heading}`} class="heading" role="row"><th role="rowheader" scope="rowgroup" colspan="8"><bdi>${item.heading}</bdi> <small>${plural(item.count, "task")}</small></th></tr>`))}
      ${list.length === 0 && html`<tr key=":none" role="row"><td role="cell" colspan="8" class="none">${rows.length ? html`No task is like that. <button type="button" onClick=${() => refine({ q: "", is: "", page: "" })}>Show all ${number(rows.length)}</button>` : "There is no task yet."}</td></tr>`}</tbody>
    </table>
    <p class="pages"><span id="count">${filtered === rows.length ? plural(rows.length, "task") : `${number(filtered)} of ${plural(rows.length, "task")}`}</span>
      ${pages > 1 && html`<span class="buttons"><button type="button" disabled=${page === 1} onClick=${() => refine({ page: page - 1 })}>Previous</button> <span>Page ${page} of ${pages}</span> <button type="button" disabled=${page === pages} onClick=${() => refine({ page: page + 1 })}>Next</button></span>`}</p>
  </div>`;
}

// --- the whole

export function Overview() {
  const { rows, summary, version, events } = useData();
  const query = route.query;
  const all = useMemo(() => [...rows.values()], [version]);
  if (!summary) return html`<p class="loading">Reading the tasks…</p>`;
  // What runs each few seconds is no news: it stands last, in an order that does not change each second.
  const often = (row) => row.interval_seconds < 60;
  const next = all.filter((row) => row.next_run).sort((a, b) => often(a) - often(b) || (often(a) ? 0 : a.next_run - b.next_run) || (a.name < b.name ? -1 : 1)).slice(0, 8);
  const changes = events.filter(isChange).slice(-12).reverse();
  return html`<h1 class="hidden">Tasks</h1>
    <${Verdict} summary=${summary} rows=${all} />
    <${Tiles} rows=${all} chosen=${query.get("is")} />
    <form class="bar" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input id="search" type="search" placeholder="Filter: words, state:failed, component:chat" aria-label="Filter tasks" autocomplete="off" value=${query.get("q") ?? ""} onInput=${(event) => refine({ q: event.currentTarget.value, page: "" })} />
      <label>Group <select id="group" value=${query.get("group") ?? ""} onChange=${(event) => refine({ group: event.currentTarget.value, page: "" })}>
        <option value="">none</option><option value="component">by component</option><option value="dependency">by dependency</option></select></label>
      <button type="button" aria-pressed=${!query.get("sort")} onClick=${() => refine({ sort: "", down: "", page: "" })}>Needs attention first</button>
    </form>
    <${Table} rows=${all} query=${query} />
    <div class="two">
      <${Card} id="changed" title="What changed" note=${html`successful runs left out · <a href=${address("events")}>all events</a>`}>
        ${changes.length ? html`<ol class="events">${changes.map((event) => changeLine(event))}</ol>` : html`<p class="soft">Nothing lately.</p>`}</${Card}>
      <${Card} id="next" title="Next runs" note=${html`<a href=${address("schedule")}>24 hours</a>`}>
        ${next.length ? html`<ol class="next">${next.map((row) => html`<li key=${row.name}><span class="number"><${Until} at=${row.next_run} /></span><${TaskLink} name=${row.name} /><small><bdi>${schedule(row)}</bdi></small></li>`)}</ol>` : html`<p class="soft">No loop waits for its time.</p>`}</${Card}>
    </div>`;
}
const ROUTINE = new Set(["exited", "started", "ready", "skipped", "waiting", "registered", "unregistered"]);
const isChange = (event) => !ROUTINE.has(event.kind) || (event.kind === "exited" && !event.detail.startsWith("success")) || (event.kind === "started" && event.detail !== "");
