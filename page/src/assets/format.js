// Times, durations, numbers and words as the page writes them.

/** A measured duration, with the digits that matter. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  if (seconds < 10) return `${Number(seconds.toFixed(2))} s`;
  return span(seconds);
}

/** A length of time in at most two units, as a person says it. */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 60) return `${Math.floor(s)} s`;
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => s >= size);
  const [unit, size] = parts[first];
  const [smaller, part] = parts[first + 1];
  const rest = Math.floor((s % size) / part);
  return rest ? `${Math.floor(s / size)} ${unit} ${rest} ${smaller}` : `${Math.floor(s / size)} ${unit}`;
}

/** The same in one unit, for columns. */
export function short(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

let zone; // undefined: the reader's own
export const zones = {
  /** From the reader's time zone to the service's, to UTC, and back. */
  next(service) {
    const all = [undefined, ...new Set([service ?? "UTC", "UTC"])];
    zone = all[(all.indexOf(zone) + 1) % all.length];
    remember("zone", zone ?? "");
  },
  name() {
    if (zone) return zone;
    const minutes = -new Date().getTimezoneOffset();
    const two = (value) => String(value).padStart(2, "0");
    return `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  },
};

const formats = new Map();
function written(time, options) {
  const key = JSON.stringify([zone, options]);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat("en-GB", { ...options, timeZone: zone }));
  return formats.get(key).format(time * 1000);
}
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const MINUTE = { hour: "2-digit", minute: "2-digit" };
const DAY = { day: "numeric", month: "short" };

/** The time of day; with the date if that is not today. */
export function clock(time, now = Date.now() / 1000) {
  const text = written(time, CLOCK);
  return written(time, DAY) === written(now, DAY) ? text : `${written(time, DAY)}, ${text}`;
}
export const minute = (time) => written(time, MINUTE);
export const full = (time) => `${written(time, { ...DAY, year: "numeric", ...CLOCK })} ${zones.name()}`;

const grouped = new Intl.NumberFormat("en");
export const number = (value) => grouped.format(value).replaceAll(",", " ");
export const percent = (part) => (part === 0 ? "0 %" : part < 0.1 ? `${Number((part * 100).toPrecision(2))} %` : `${Math.round(part * 100)} %`);
export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;
export const words = (name) => name.replaceAll("_", " ");
export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

// Storage is refused in some private windows; then nothing is remembered.
export function remember(key, value) {
  try {
    localStorage.setItem(`otel-tasks-page.${key}`, value);
  } catch {}
}
export function recall(key) {
  try {
    return localStorage.getItem(`otel-tasks-page.${key}`);
  } catch {
    return null;
  }
}
try {
  zone = recall("zone") || undefined;
  if (zone) written(0, MINUTE);
} catch {
  zone = undefined; // A time zone that this browser does not know.
}
