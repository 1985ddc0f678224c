// Runtime: the process and what runs its tasks.

import { html } from "./vendor/htm-preact.js";
import { duration, number, words } from "./format.js";
import { Card, Facts, Icon, Own, TaskLink } from "./parts.js";
import { useData } from "./state.js";

export function Runtime() {
  const { summary } = useData();
  if (!summary) return html`<p class="loading">Reading the runtime…</p>`;
  const probe = (passes, text) => html`<${Icon} tone=${passes ? "good" : "bad"} /> ${passes ? "passing" : "failing"} <span class="soft">${text}</span>`;
  return html`<h1>Runtime</h1>
    <div class="two even">
      <${Card} id="probes" title="Probes"><${Facts} pairs=${[
        ["Liveness", probe(summary.is_live, "health/live")], ["Readiness", probe(summary.is_ready, "health/ready")], ["Startup", probe(summary.has_started, "health/startup")],
        ["Runtime", summary.runtime_stalled ? html`<${Icon} tone="bad" /> runs nothing` : html`<${Icon} tone="good" /> runs`],
      ]} /></${Card}>
      <${Card} id="blocked" title="Blocked threads">${summary.blocked.length ? html`<${Facts} pairs=${summary.blocked.map((blocked) => [blocked.thread, html`<${TaskLink} name=${blocked.task} /> for ${duration(blocked.seconds)}`])} />` : html`<p>No task blocks a thread.</p>`}</${Card}>
    </div>`;
}
