// The page: keeps what the stream tells, draws what is seen of it. Everything of a task's is set as text, never as markup.

const rows = new Map();
let summary = null;
let events = [];
let clockOffset = 0;
let order = { column: "name", descending: false };
let drawn = false;
let shown = null; // The task that is shown alone.

const $ = (id) => document.getElementById(id);
const now = () => Date.now() / 1000 + clockOffset;

// --- text

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A user's text: its direction stays its own. */
const own = (text, properties) => element("bdi", properties, text);

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(3)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

function since(time) {
  if (time === null || time === undefined) return "–";
  const away = time - now();
  const text = Math.abs(away) < 1 ? "now" : duration(Math.round(Math.abs(away)) || 1);
  return text === "now" ? text : away < 0 ? `${text} ago` : `in ${text}`;
}

const clock = (time) => new Date(time * 1000).toLocaleTimeString([], { hour12: false });
const number = (value) => value.toLocaleString("en");

const TONES = {
  running: "busy", finished: "well", failed: "bad", backoff: "warn", stopping: "warn", paused: "warn",
};
const HEALTH_TONES = { healthy: "", degraded: "warn", unhealthy: "bad" };
const STATUSES = ["unhealthy", "degraded", "healthy"];
const healthTone = (row) => HEALTH_TONES[row.status] ?? "";
const tone = (row) => (row.status === "unhealthy" ? "bad" : TONES[row.state] ?? "soft");
const state = (row) => row.state ?? (row.members !== null ? `${number(row.members)} members` : row.active_runs > 0 ? "running" : "–");
const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);
const health = (row, reasons = row.reasons) => (row.status ? `${capital(row.status)}${reasons.length ? `: ${reasons.join(", ")}` : ""}` : "–");

// --- the table

const PRIORITIES = ["critical", "high", "normal", "low"];
const COLUMNS = [
  { key: "name", title: "Task", css: "name", of: (row) => row.name, text: (row) => link(row) },
  { key: "state", title: "State", css: "state", of: state, text: (row) => element("span", { className: tone(row) }, `● ${state(row)}`) },
  { key: "health", title: "Health", css: "health at-640", of: (row) => [row.status ? STATUSES.indexOf(row.status) : STATUSES.length, row.reasons.length], text: (row) => element("span", { className: healthTone(row), title: health(row) }, health(row)) },
  { key: "component", title: "Component", css: "component at-1100", of: (row) => row.component ?? "", text: (row) => own(row.component ?? "–") },
  { key: "category", title: "Category", css: "category at-1500", of: (row) => row.category, text: (row) => row.category },
  { key: "priority", title: "Priority", css: "priority at-1500", of: (row) => PRIORITIES.indexOf(row.priority), text: (row) => row.priority },
  { key: "runs", title: "Runs", css: "number", of: (row) => row.runs, text: (row) => (row.active_runs ? `${number(row.runs)} +${number(row.active_runs)}` : number(row.runs)) },
  { key: "errors", title: "Errors", css: "number", of: (row) => row.errors, text: (row) => element("span", { className: row.errors ? "bad" : "" }, number(row.errors)) },
  { key: "restarts", title: "Restarts", css: "number at-640", of: (row) => row.restarts, text: (row) => number(row.restarts) },
  { key: "p50", title: "p50", css: "number at-1100", of: (row) => row.p50_seconds ?? -1, text: (row) => duration(row.p50_seconds) },
  { key: "p95", title: "p95", css: "number at-640", of: (row) => row.p95_seconds ?? -1, text: (row) => duration(row.p95_seconds) },
  { key: "max", title: "max", css: "number at-1500", of: (row) => row.max_seconds ?? -1, text: (row) => duration(row.max_seconds) },
  { key: "next", title: "Next run", css: "number at-640", of: (row) => row.next_run ?? Infinity, text: (row) => since(row.next_run) },
  { key: "error", title: "Last error", css: "at-1100", of: (row) => -(row.last_error_time ?? 0), text: (row) => own(row.last_error ?? "", { title: row.last_error ?? "" }) },
];

const address = (name) => `#task=${encodeURIComponent(name)}`;
const link = (row) => element("a", { href: address(row.name), title: row.name, tabIndex: -1 }, own(row.name));

function compare(a, b) {
  const column = COLUMNS.find((column) => column.key === order.column);
  const [left, right] = [column.of(a), column.of(b)];
  let by = Array.isArray(left)
    ? left[0] - right[0] || left[1] - right[1]
    : typeof left === "number" ? left - right || 0 : left < right ? -1 : left > right ? 1 : 0;
  if (order.descending) by = -by;
  return by || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}

function matching() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const unwell = $("unwell").checked;
  const text = (row) => `${row.name} ${row.component ?? ""} ${state(row)} ${row.category} ${row.priority} ${row.reasons.join(" ")} ${row.last_error ?? ""}`.toLowerCase();
  return [...rows.values()].filter((row) => (!unwell || (row.status && row.status !== "healthy")) && (!words.length || words.every((word) => text(row).includes(word))));
}

/** What the table lists, from top to bottom: headings and tasks, with how far each is indented. */
function listed() {
  const found = matching().sort(compare);
  const by = $("group").value;
  if (by === "component") {
    const groups = Map.groupBy ? Map.groupBy(found, (row) => row.component ?? "") : grouped(found, (row) => row.component ?? "");
    return [...groups.keys()].sort().flatMap((name) => [
      { heading: name || "no component", count: groups.get(name).length },
      ...groups.get(name).map((row) => ({ row, depth: 0 })),
    ]);
  }
  if (by === "dependency") {
    const known = new Set(found.map((row) => row.name));
    const under = grouped(found, (row) => row.depends_on.find((name) => known.has(name)) ?? (known.has(row.family) ? row.family : ""));
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

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  return groups;
}

let list = [];
let focused = null; // The name of the row that has the keyboard.

function drawHead() {
  const head = $("tasks").tHead.rows[0];
  head.replaceChildren(...COLUMNS.map((column) => {
    const sorted = order.column === column.key;
    const button = element("button", { type: "button" }, column.title + (sorted ? (order.descending ? " ▾" : " ▴") : ""));
    button.onclick = () => {
      order = { column: column.key, descending: sorted ? !order.descending : column.css?.includes("number") ?? false };
      drawHead();
      draw();
    };
    return element("th", { className: column.css ?? "", scope: "col", "aria-sort": sorted ? (order.descending ? "descending" : "ascending") : "none" }, button);
  }));
}

function draw() {
  const began = performance.now();
  list = listed();
  const tasks = list.filter((item) => item.row).length;
  $("count").textContent = tasks === rows.size ? `${number(tasks)} tasks` : `${number(tasks)} of ${number(rows.size)} tasks`;
  drawRows();
  if (rows.size && !performance.getEntriesByName("first-rows").length) performance.mark("first-rows");
  performance.clearMeasures("update");
  performance.measure("update", { start: began });
}

/** Draws the rows that are in sight, and keeps room for the others. */
function drawRows() {
  const scroller = $("scroller");
  const height = rowHeight();
  const first = Math.max(0, Math.floor(scroller.scrollTop / height) - 10);
  const last = Math.min(list.length, first + Math.ceil(scroller.clientHeight / height) + 20);
  const held = document.activeElement?.closest("tr.task")?.dataset.name;
  const spacer = (count) => {
    const cell = element("td", { colSpan: columnsInSight() });
    cell.style.height = `${count * height}px`;
    return element("tr", { className: "spacer", "aria-hidden": "true" }, cell);
  };
  const body = $("tasks").tBodies[0];
  body.replaceChildren(spacer(first), ...list.slice(first, last).map(drawRow), spacer(list.length - last));
  const again = held !== undefined && [...body.rows].find((row) => row.dataset.name === held);
  if (again) again.focus({ preventScroll: true });
}

function drawRow(item) {
  if (!item.row) {
    return element("tr", { className: "heading" }, element("td", { colSpan: columnsInSight() }, own(item.heading), ` (${item.count})`));
  }
  const { row, depth } = item;
  const line = element("tr", { className: "task", tabIndex: row.name === (focused ?? list.find((item) => item.row)?.row.name) ? 0 : -1 });
  line.dataset.name = row.name;
  for (const column of COLUMNS) {
    const cell = element("td", { className: column.css ?? "" }, column.text(row));
    if (column.key === "name" && depth) cell.style.paddingLeft = `${8 + 16 * depth}px`;
    line.append(cell);
  }
  return line;
}

/** A cell must not reach over columns that are hidden: they would take room again. */
const columnsInSight = () => [...$("tasks").tHead.rows[0].cells].filter((cell) => cell.offsetWidth > 0).length;
const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) || 34;

function moveTo(index) {
  const tasks = list.map((item, place) => ({ item, place })).filter(({ item }) => item.row);
  if (!tasks.length) return;
  const { item, place } = tasks[Math.max(0, Math.min(tasks.length - 1, index))];
  focused = item.row.name;
  const scroller = $("scroller");
  const top = place * rowHeight();
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  if (top + 2 * rowHeight() > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + 2 * rowHeight() - scroller.clientHeight;
  drawRows();
  [...$("tasks").tBodies[0].rows].find((row) => row.dataset.name === focused)?.focus({ preventScroll: true });
}

// --- the service

function drawService() {
  if (!summary) return;
  const probe = (title, passes) => element("li", { className: passes ? "well" : "bad" }, `${title}: ${passes ? "yes" : "no"}`);
  $("service").replaceChildren(
    element("li", { className: summary.status === "healthy" ? "well" : HEALTH_TONES[summary.status] }, capital(summary.status)),
    probe("live", summary.is_live),
    probe("ready", summary.is_ready),
    probe("started", summary.has_started),
    element("li", {}, `${number(summary.registered)} registered`),
    element("li", { className: summary.degraded ? "warn" : "" }, `${number(summary.degraded)} degraded`),
    element("li", { className: summary.unhealthy ? "bad" : "" }, `${number(summary.unhealthy)} unhealthy`),
  );
  const lines = summary.blocked.map((blocked) => `${blocked.task} blocks the thread ${blocked.thread}, for ${duration(blocked.seconds)}`);
  if (summary.runtime_stalled) lines.unshift("The runtime runs nothing: all its threads are blocked.");
  if (summary.report) lines.push(...summary.report);
  else if (summary.shutting_down) {
    const alive = [...rows.values()].filter((row) => row.active_runs > 0);
    lines.push(`Shutting down. Still at work: ${alive.map((row) => row.name).slice(0, 20).join(", ") || "nobody"}`);
  }
  $("alarm").hidden = !lines.length;
  $("alarm").textContent = lines.join("\n");
}

const eventLine = (event, withTask) => element("li", {},
  element("time", { dateTime: new Date(event.at * 1000).toISOString(), title: new Date(event.at * 1000).toString() }, clock(event.at)),
  withTask && event.task ? element("a", { href: address(event.task) }, own(event.task)) : null,
  element("span", { className: `what ${["gave_up", "stalled", "slow_poll", "runtime_stalled"].includes(event.kind) ? "bad" : ""}` }, event.kind.replaceAll("_", " ")),
  own(event.detail, { className: "detail", title: event.detail }));

function drawEvents() {
  $("events").replaceChildren(...events.slice(-100).reverse().map((event) => eventLine(event, true)));
}

// --- one task

const NS = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const titled = (shape, text) => {
  shape.append(svg("title", {}, text));
  return shape;
};

/** The last runs: how long each took, the oldest at the left. */
function historyChart(history) {
  if (!history.length) return element("p", { className: "soft" }, "No run has ended yet.");
  const [width, height, floor] = [640, 130, 110];
  const most = Math.max(...history.map((run) => run.seconds), 1e-6);
  const step = width / Math.max(history.length, 20);
  const bars = history.map((run, index) => {
    // By the fourth root, so that short runs are seen beside a long one.
    const tall = Math.max(2, Math.sqrt(Math.sqrt(run.seconds / most)) * (floor - 14));
    return titled(svg("rect", { class: run.result, x: index * step, y: floor - tall, width: Math.max(1, step - 1), height: tall }), `${clock(run.started)}: ${run.result} after ${duration(run.seconds)}`);
  });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `The last ${history.length} runs, the longest ${duration(most)}` },
    ...bars, svg("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor }),
    svg("text", { x: 0, y: height - 4 }, clock(history[0].started)),
    svg("text", { x: width, y: height - 4, "text-anchor": "end" }, `${clock(history.at(-1).started)}, longest ${duration(most)}`));
}

/** Ended runs by duration. */
function histogram(buckets) {
  const used = buckets.map((bucket) => bucket.runs > 0);
  const [first, last] = [used.indexOf(true), used.lastIndexOf(true)];
  if (first < 0) return element("p", { className: "soft" }, "No run has ended yet.");
  const part = buckets.slice(Math.max(0, first - 1), last + 2);
  const [width, height, floor] = [640, 130, 104];
  const most = Math.max(...part.map((bucket) => bucket.runs));
  const step = width / part.length;
  const every = Math.ceil(part.length / 9);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Ended runs by duration" },
    ...part.flatMap((bucket, index) => {
      const tall = bucket.runs ? Math.max(2, (bucket.runs / most) * (floor - 14)) : 0;
      const bound = bucket.at_most_seconds === null ? "more" : `≤ ${duration(bucket.at_most_seconds)}`;
      const bar = titled(svg("rect", { class: "bar", x: index * step + 1, y: floor - tall, width: step - 2, height: tall }), `${bound}: ${number(bucket.runs)}`);
      return index % every ? [bar] : [bar, svg("text", { x: index * step + step / 2, y: height - 10, "text-anchor": "middle" }, bound)];
    }),
    svg("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor }));
}

/** When it failed and was restarted, as far as events reach back. */
function timeline(taskEvents) {
  const marks = taskEvents.filter((event) => event.kind === "gave_up" || event.kind === "stalled" || (event.kind === "started" && event.detail));
  if (!marks.length) return element("p", { className: "soft" }, "No restart lately.");
  const [width, height, line] = [640, 46, 22];
  const from = taskEvents[0].at;
  const span = Math.max(now() - from, 1);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${marks.length} restarts, stalls and give-ups` },
    svg("line", { class: "axis", x1: 0, x2: width, y1: line, y2: line }),
    ...marks.map((event) => titled(svg("circle", { class: event.kind === "started" ? "restart" : "failure", cx: ((event.at - from) / span) * (width - 12) + 6, cy: line, r: 5 }), `${clock(event.at)} ${event.kind.replaceAll("_", " ")}: ${event.detail}`)),
    svg("text", { x: 0, y: height - 4 }, clock(from)), svg("text", { x: width, y: height - 4, "text-anchor": "end" }, "now"));
}

function waterfall(trace, open) {
  const end = (span) => span.offset_seconds + (span.seconds ?? Math.max(0, now() - trace.at - span.offset_seconds));
  const whole = Math.max(...trace.spans.map(end), 1e-9);
  const depths = new Map();
  const line = (span) => {
    const depth = depths.has(span.parent_id) ? depths.get(span.parent_id) + 1 : 0;
    depths.set(span.span_id, depth);
    const label = own(span.name, { className: "label", title: span.name });
    label.style.paddingLeft = `${depth * 12}px`;
    const bar = element("i", { className: `${span.seconds === null ? "running " : ""}${span.is_error ? "bad" : "busy"}` });
    bar.style.left = `${(span.offset_seconds / whole) * 100}%`;
    bar.style.width = `${((end(span) - span.offset_seconds) / whole) * 100}%`;
    const took = span.seconds === null ? "running" : duration(span.seconds);
    return [
      element("div", { className: "span" }, label, element("div", { className: "lane", title: `${span.name}: ${took}` }, bar)),
      element("details", {}, element("summary", { className: "soft" }, `${took}${span.status ? `: ${span.status}` : ""}`),
        element("dl", {}, ...span.attributes.flatMap(([key, value]) => [element("dt", {}, own(key)), element("dd", {}, own(value))]),
          ...span.events.flatMap((event) => [element("dt", {}, `after ${duration(event.offset_seconds)}`), element("dd", {}, own(event.name))]))),
    ];
  };
  const made = element("details", { className: "trace", open },
    element("summary", { className: trace.is_error ? "bad" : "" }, `${clock(trace.at)}, ${trace.seconds === null ? "running" : duration(trace.seconds)}, ${trace.spans.length + trace.more} spans, trace ${trace.trace_id}`),
    ...trace.spans.flatMap(line));
  made.dataset.trace = trace.trace_id;
  return made;
}

const facts = (pairs) => element("dl", {}, ...pairs.filter(([, value]) => value !== null && value !== undefined).flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, typeof value === "string" ? own(value) : value)]));
const counted = (counts) => counts.filter((count) => count.count).map((count) => `${count.what} ${number(count.count)}`).join(", ") || "none";

function drawDetail(task) {
  const opened = new Set([...document.querySelectorAll("#detail .trace[open]")].map((trace) => trace.dataset.trace));
  const focus = document.activeElement?.dataset?.action;
  const section = (title, ...content) => element("section", { ariaLabel: title }, element("h2", {}, title), ...content);
  const buttons = summary?.control && task.settings
    ? ["restart", "pause", "resume", "stop", ...(task.interval_seconds === null ? [] : ["run"])].map((action) => {
        const button = element("button", { type: "button", onclick: () => control(task.name, action) }, action);
        button.dataset.action = action;
        return button;
      })
    : [];
  const settings = Object.entries(task.settings ?? {}).filter(([, value]) => value !== null)
    .map(([key, value]) => [key.replace(/_seconds$/, "").replaceAll("_", " "), key.endsWith("_seconds") ? duration(value) : String(value)]);
  const title = element("h2", { className: "long", tabIndex: -1 }, own(task.name));
  $("detail").replaceChildren(
    element("p", {}, element("a", { href: "#" }, "← all tasks")),
    element("div", { className: "title" }, title, element("span", { className: tone(task) }, `● ${state(task)}`), ...buttons, element("span", { id: "answer", role: "status" })),
    element("div", { className: "columns" },
      section("Now", facts([
        ["health", element("span", { className: healthTone(task) }, health(task, task.reason_texts))],
        ["role", task.role],
        ["unhealthy since", task.unhealthy_since === null ? null : since(task.unhealthy_since)],
        ["in this state since", task.state_since === null ? null : since(task.state_since)],
        ["last error", task.last_error_text ? `${since(task.last_error_time)}: ${task.last_error_text}` : null],
        ["last error's trace", task.last_error_trace],
        ["last success", task.last_success === null ? null : since(task.last_success)],
        ["last sign of life", task.last_seen === null ? null : since(task.last_seen)],
        ["next run", task.next_run === null ? null : `${since(task.next_run)}, every ${duration(task.interval_seconds)}`],
        ["first began", task.first_start === null ? null : `${new Date(task.first_start * 1000).toLocaleString()}`],
        ["component", task.component],
        ["category, priority", `${task.category}, ${task.priority}`],
        ["depends on", task.depends_on.length ? task.depends_on.join(", ") : null],
      ])),
      section("Figures", facts([
        ["runs", `${number(task.runs)} ended, ${number(task.active_runs)} under way`],
        ["results", counted(task.results)],
        ["errors", counted(task.error_types)],
        ["restarts", counted(task.restart_reasons)],
        ["duration", `p50 ${duration(task.p50_seconds)}, p95 ${duration(task.p95_seconds)}, max ${duration(task.max_seconds)}, mean ${duration(task.average_seconds)}`],
        ["longest poll", task.longest_poll_seconds ? duration(task.longest_poll_seconds) : null],
        ["slow polls, stalls", `${number(task.slow_polls)}, ${number(task.stalls)}`],
        ["skipped iterations", task.skipped_iterations ? number(task.skipped_iterations) : null],
      ]))),
    element("div", { className: "columns" },
      section("Last runs", historyChart(task.history)),
      section("Durations", histogram(task.durations))),
    section("Restarts", timeline(task.events)),
    section("Traces", ...(task.traces === null
      ? [element("p", { className: "soft" }, "This page is given no spans (Page::feed).")]
      : task.traces.length ? task.traces.map((trace, index) => waterfall(trace, opened.size ? opened.has(trace.trace_id) : index === 0))
      : [element("p", { className: "soft" }, "None lately.")])),
    section("Events", element("ol", { className: "events" }, ...task.events.slice(-100).reverse().map((event) => eventLine(event, false)))),
    settings.length ? section("Settings", facts(settings)) : "",
  );
  if (focus) document.querySelector(`#detail [data-action="${CSS.escape(focus)}"]`)?.focus();
}

let asking = false;
async function refreshDetail() {
  if (shown === null || asking) return;
  asking = true;
  const name = shown;
  try {
    const answer = await fetch(`tasks/${encodeURIComponent(name)}`);
    const task = await answer.json();
    if (shown !== name) return;
    if (answer.ok) {
      const said = $("answer")?.textContent;
      drawDetail(task);
      if (said) $("answer").textContent = said;
    } else $("detail").replaceChildren(element("p", {}, element("a", { href: "#" }, "← all tasks")), element("p", { className: "bad" }, task.error));
  } catch {
    // The stream tells that the connection is lost.
  } finally {
    asking = false;
    if (shown !== name) refreshDetail();
  }
}

// --- control

async function token() {
  const held = sessionStorage.getItem("token");
  if (held) return held;
  const dialog = $("token");
  $("secret").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  return dialog.returnValue === "use" ? $("secret").value : null;
}

async function control(name, action) {
  const secret = await token();
  if (!secret) return;
  const answer = await fetch(`tasks/${encodeURIComponent(name)}/${action}`, { method: "POST", headers: { Authorization: `Bearer ${secret}` } });
  if (answer.ok) sessionStorage.setItem("token", secret);
  if (answer.status === 401) sessionStorage.removeItem("token");
  const said = answer.ok ? `${action}: told` : (await answer.json()).error;
  await refreshDetail();
  const line = $("answer");
  if (line) {
    line.textContent = said;
    line.className = answer.ok ? "well" : "bad";
  }
}

// --- the stream

function take(message, everything) {
  const told = JSON.parse(message);
  clockOffset = told.at - Date.now() / 1000;
  if (everything) rows.clear();
  if (told.summary) summary = told.summary;
  for (const row of told.rows ?? []) rows.set(row.name, row);
  for (const name of told.gone ?? []) rows.delete(name);
  events = (everything ? told.events : events.concat(told.events ?? [])).slice(-200);
  $("connection").textContent = "live";
  const concerned = everything || (told.rows ?? []).some((row) => row.name === shown) || (told.events ?? []).some((event) => event.task === shown);
  if (concerned) refreshDetail();
  schedule();
}

function schedule() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    drawService();
    if (shown === null) {
      draw();
      drawEvents();
    }
  });
}

function listen() {
  const stream = new EventSource("events");
  stream.addEventListener("all", (event) => take(event.data, true));
  stream.addEventListener("delta", (event) => take(event.data, false));
  stream.onerror = () => {
    const refused = stream.readyState === EventSource.CLOSED;
    $("connection").textContent = refused ? "refused: too many viewers, or the service is gone; trying again" : "connection lost, trying again";
    if (refused) setTimeout(listen, 10_000);
  };
}

// --- where we are

function route() {
  const named = location.hash.match(/^#task=(.*)$/s);
  let name = null;
  try {
    name = named ? decodeURIComponent(named[1]) : null;
  } catch {
    // Not an address of ours.
  }
  const before = shown;
  shown = name;
  $("overview").hidden = name !== null;
  $("detail").hidden = name === null;
  if (name !== null) {
    $("detail").replaceChildren(element("p", { className: "soft" }, "reading"));
    refreshDetail().then(() => document.querySelector("#detail h2")?.focus());
  } else {
    if (before !== null) focused = before;
    schedule();
    if (before !== null) requestAnimationFrame(() => [...$("tasks").tBodies[0].rows].find((row) => row.dataset.name === before)?.focus());
  }
}

addEventListener("hashchange", route);
$("tools").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["search", "group", "unwell"]) $(id).addEventListener("input", draw);
$("scroller").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
$("tasks").tBodies[0].addEventListener("click", (event) => {
  const name = event.target.closest("tr.task")?.dataset.name;
  if (name !== undefined && !event.target.closest("a")) location.hash = address(name);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("token").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && shown !== null) location.hash = "";
  else if (event.key === "/" && !typing) {
    event.preventDefault();
    location.hash = "";
    $("search").focus();
  } else if (shown === null && !event.target.matches("select") && ["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
    if (typing && event.key !== "ArrowDown") return;
    event.preventDefault();
    const tasks = list.filter((item) => item.row);
    const place = typing ? -1 : tasks.findIndex((item) => item.row.name === (event.target.dataset?.name ?? focused));
    moveTo({ ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: tasks.length - 1 }[event.key]);
  } else if (event.key === "Enter" && event.target.matches("tr.task")) location.hash = address(event.target.dataset.name);
});
// What is told as "so long ago" grows while nothing else changes.
setInterval(() => (shown === null ? drawRows() : undefined), 1000);
setInterval(refreshDetail, 5000);

drawHead();
route();
listen();
