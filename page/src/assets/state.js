// What the page knows: the rows and the summary of the stream, the connection, and where the reader is.

import { useEffect, useReducer, useRef } from "./vendor/htm-preact.js";

/** How many events are kept in the tab. */
const EVENTS = 1000;

export const store = {
  rows: new Map(),
  summary: null,
  events: [],
  /** `connecting`, `live`, `lost` or `refused`. */
  connection: "connecting",
  /** When the service last said something, by its own clock. */
  heard: null,
  /** The time at which the reader paused the updates, by the service's clock; `null` while they come. */
  paused: null,
  /** Grows with each change of the rows: who sorts them need not do so again. */
  version: 0,
};

let offset = 0; // How far the service's clock is ahead of the browser's.
export const now = () => store.paused ?? Date.now() / 1000 + offset;
/** How old the data is, in seconds. */
export const age = () => (store.heard === null ? null : Math.max(0, Date.now() / 1000 + offset - store.heard));

/** The folder of the page: with it, the page works below any prefix, with and without a slash at the end of its address. */
const FOLDER = new URL("..", import.meta.url);
export const from = (path) => new URL(path, FOLDER);

// --- who is drawn again

const data = new Set();
const ticks = new Set();
let frame = 0;

function run(listeners) {
  for (const listener of [...listeners]) listener();
}
/** Draws once for all that changes within a frame. */
function drawSoon() {
  // A hidden tab has no frames; its title must change all the same.
  if (document.hidden) run(data);
  else if (!frame) frame = requestAnimationFrame(() => ((frame = 0), run(data)));
}
export function changed() {
  store.version += 1;
  drawSoon();
}

function useListeners(listeners) {
  const [, draw] = useReducer((count) => count + 1, 0);
  const drawn = store.version;
  useEffect(() => {
    listeners.add(draw);
    // An effect runs after the drawing: what changed between the two has called nobody.
    if (store.version !== drawn) draw();
    return () => listeners.delete(draw);
  }, []);
}
/** Draws again when the stream said something. */
export const useData = () => (useListeners(data), store);
/** Draws again each second: for ages and countdowns. */
export const useTick = () => (useListeners(ticks), now());
setInterval(() => run(ticks), 1000);

// --- the stream

let stream = null;
let silence = 0;

function take(text, everything) {
  const message = JSON.parse(text);
  offset = message.at - Date.now() / 1000;
  store.heard = message.at;
  if (everything) store.rows = new Map();
  if (message.summary) store.summary = message.summary;
  for (const row of message.rows ?? []) store.rows.set(row.name, row);
  for (const name of message.gone ?? []) store.rows.delete(name);
  store.events = (everything ? [] : store.events).concat(message.events ?? []).slice(-EVENTS);
  for (const wait of waiting) wait(message, everything);
  live();
  changed();
}

/** The service speaks at least every 15 s: a stream that is silent for longer is dead, though nobody closed it. */
const SILENCE = 35_000;
function live() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    store.connection = "lost";
    changed();
    if (store.paused === null) listen();
  }, SILENCE);
  const was = store.connection;
  store.connection = "live";
  if (was !== "live") changed();
}

const waiting = new Set();
/** Calls `listener(message, everything)` for each message of the stream; returns how to end that. */
export function onMessage(listener) {
  waiting.add(listener);
  return () => waiting.delete(listener);
}

export function listen() {
  stream?.close();
  stream = new EventSource(from("events"));
  stream.addEventListener("all", (event) => take(event.data, true));
  stream.addEventListener("delta", (event) => take(event.data, false));
  stream.addEventListener("alive", () => {
    store.heard = Date.now() / 1000 + offset;
    live();
  });
  stream.onopen = live;
  stream.onerror = () => {
    const refused = stream.readyState === EventSource.CLOSED;
    clearTimeout(silence);
    store.connection = refused ? "refused" : "lost";
    if (refused) setTimeout(() => store.paused === null && listen(), 5000);
    changed();
  };
}

export function pause() {
  if (store.paused === null) {
    store.paused = now();
    clearTimeout(silence);
    stream?.close();
    // Every age is of the same moment.
    run(ticks);
  } else {
    store.paused = null;
    store.connection = "connecting";
    listen();
  }
  changed();
}

/** Reads a path of the page. Throws with what the service said, if it refused. */
export async function read(path) {
  const answer = await fetch(from(path), { headers: { Accept: "application/json" } });
  const said = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(said.error ?? `status ${answer.status}`), { status: answer.status });
  return said;
}

/** Reads a path at once, after each message that concerns it, and each few seconds. */
export function useRead(path, concerns = () => false, every = 5000) {
  const [, draw] = useReducer((count) => count + 1, 0);
  const held = useRef({}).current;
  if (held.path !== path) Object.assign(held, { path, value: null, error: null });
  useEffect(() => {
    let over = false;
    let asking = false;
    let again = false;
    const ask = async () => {
      if (over || (store.paused !== null && held.value)) return;
      if (asking) return void (again = true);
      asking = true;
      try {
        held.value = await read(path);
        held.error = null;
      } catch (error) {
        // That the connection is lost, the stream says; what is known stays.
        if (error.status) held.error = error;
      }
      asking = false;
      if (over) return;
      draw();
      if (again) ((again = false), setTimeout(ask, 500));
    };
    ask();
    const end = onMessage((message, everything) => (everything || concerns(message)) && ask());
    const timer = setInterval(ask, every);
    return () => {
      over = true;
      end();
      clearInterval(timer);
    };
  }, [path]);
  return held;
}

// --- where the reader is: #/, #/task/NAME, #/schedule, #/events, #/runtime, each with ?key=value

function parse() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [view, ...rest] = path.split("/");
  let name = rest.join("/");
  try {
    name = decodeURIComponent(name);
  } catch {
    // Not an address of the page's: taken as it stands.
  }
  return { view: view || "tasks", name, query: new URLSearchParams(query) };
}
export let route = parse();

export const address = (view, name = "", query = "") => {
  const text = query.toString();
  return `#/${view === "tasks" ? "" : view}${name === "" ? "" : `/${encodeURIComponent(name)}`}${text ? `?${text}` : ""}`;
};
export const taskAddress = (name, query = "") => address("task", name, query);

/** Sets values of the address without a step in the history; an empty value is left out. */
export function refine(values) {
  const query = new URLSearchParams(route.query);
  for (const [key, value] of Object.entries(values)) {
    if (value === null || value === "" || value === false) query.delete(key);
    else query.set(key, value);
  }
  history.replaceState(null, "", address(route.view, route.name, query));
  route = parse();
  drawSoon();
}

addEventListener("hashchange", () => {
  const before = route;
  route = parse();
  run(data);
  if (before.view !== route.view || before.name !== route.name) run(moved);
});
const moved = new Set();
/** Calls the listener when another view is shown. */
export const onMove = (listener) => moved.add(listener);
