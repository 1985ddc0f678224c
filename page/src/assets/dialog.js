// Dialogs: the token, a confirmation, the keys; and what is done to a task.

import { html, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { recall, remember } from "./format.js";
import { from } from "./state.js";

let open = () => {};
/** Where the dialogs are drawn: once, by the page. */
export function Dialogs() {
  const [shown, show] = useState(null);
  open = show;
  return shown && html`<${Modal} key=${shown.title} ...${shown} close=${() => show(null)} />`;
}
const isOpen = () => document.querySelector("dialog[open]") !== null;

function Modal({ title, body, done, close, css = "" }) {
  const dialog = useRef(null);
  const back = useRef(document.activeElement);
  const ended = useRef(false);
  const end = (value) => {
    if (ended.current) return;
    ended.current = true;
    // First closed: what is behind a modal dialog takes no focus.
    dialog.current.close();
    back.current?.focus?.();
    close();
    done?.(value);
  };
  useLayoutEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} class=${css} aria-labelledby="dialog-title" onClose=${() => end(null)} onCancel=${(event) => (event.preventDefault(), end(null))}>
    <h2 id="dialog-title">${title}</h2>
    ${body(end)}
  </dialog>`;
}

function show(title, body, css) {
  if (isOpen()) return Promise.resolve(null);
  return new Promise((done) => open({ title, body, done, css }));
}

// --- the token, which stays in this tab

let held = null;
function askToken() {
  const submit = (end) => (event) => {
    event.preventDefault();
    const secret = event.currentTarget.elements.secret.value;
    if (secret) end(secret);
  };
  return show("Token", (end) => html`<form onSubmit=${submit(end)}>
    <p id="token-hint">Needed to restart, pause, resume, stop or run a task. It stays in this tab.</p>
    <label for="secret">Token</label>
    <input id="secret" name="secret" type="password" autocomplete="off" spellcheck="false" required aria-describedby="token-hint" autofocus />
    <p class="buttons"><button type="submit" class="main" value="use">Use</button> <button type="button" onClick=${() => end(null)}>Cancel</button></p>
  </form>`);
}

function confirm(title, text, action) {
  return show(title, (end) => html`${text}
    <p class="buttons"><button type="button" class="danger" data-confirm onClick=${() => end(true)}>${action}</button> <button type="button" autofocus onClick=${() => end(null)}>Cancel</button></p>`);
}

const DONE = { restart: "Restart requested", pause: "Pause requested", resume: "Resume requested", stop: "Stop requested", run: "Run requested" };

/** Asks for the token and, before a stop, whether it is meant; then asks the service. Resolves to what to say. */
export async function act(name, action, neededBy = []) {
  if (action === "stop") {
    const text = html`<p><bdi>${name}</bdi> ends, and does not start again until it is restarted here or the process is.</p>
      ${neededBy.length > 0 && html`<p>Needed by <b>${neededBy.join(", ")}</b>.</p>`}`;
    if (!(await confirm("Stop this task?", text, "Stop it"))) return null;
  }
  held ??= stored();
  const secret = held ?? (await askToken());
  if (!secret) return null;
  let answer;
  try {
    answer = await fetch(from(`tasks/${encodeURIComponent(name)}/${action}`), { method: "POST", headers: { Authorization: `Bearer ${secret}` } });
  } catch {
    return { good: false, text: `${action}: the service is not reached` };
  }
  if (answer.status === 401 || answer.status === 403) keep(null);
  else keep(secret);
  if (answer.ok) return { good: true, text: DONE[action] };
  const said = await answer.json().catch(() => ({}));
  return { good: false, text: `${answer.status === 409 ? "Not now" : "Refused"}: ${said.error ?? `status ${answer.status}`}` };
}

function stored() {
  try {
    return sessionStorage.getItem("token");
  } catch {
    return null;
  }
}
function keep(secret) {
  held = secret;
  try {
    if (secret === null) sessionStorage.removeItem("token");
    else sessionStorage.setItem("token", secret);
  } catch {}
}

// --- keys

export const KEYS = [
  ["/", "go to the filter"],
  ["j k or arrows", "next and previous task"],
  ["Enter", "open the task"],
  ["Esc", "back to all tasks"],
  ["1 2 3 4", "Tasks, Schedule, Events, Runtime"],
  ["p", "pause and resume the updates"],
  ["?", "these keys"],
  ["← →", "in a chart: the value before and after"],
];

export const keysAreOn = () => recall("keys") !== "off";

export function help() {
  return show("Keyboard", (end) => html`<dl class="keys">${KEYS.map(([key, does]) => html`<dt><kbd>${key}</kbd></dt><dd>${does}</dd>`)}</dl>
    <p><label><input type="checkbox" checked=${keysAreOn()} onChange=${(event) => remember("keys", event.currentTarget.checked ? "on" : "off")} /> Keys of one character</label></p>
    <p class="buttons"><button type="button" class="main" autofocus onClick=${() => end(null)}>Close</button></p>`, "help");
}
