// Runtime: the process and what runs its tasks.

import { html } from "./vendor/htm-preact.js";
import { duration, number, percent } from "./format.js";
import { Card, Clock, Facts, Icon, Since, TaskLink } from "./parts.js";
import { useData, useRead } from "./state.js";

export function Runtime() {
  const { summary } = useData();
  const held = useRead("runtime", () => false, 2000);
  const runtime = held.value;
  if (!summary) return html`<p class="loading">Reading the runtime…</p>`;
  const probe = (passes, text) => html`<${Icon} tone=${passes ? "good" : "bad"} /> ${passes ? "passing" : "failing"} <span class="soft">${text}</span>`;
  return html`<h1>Runtime</h1>
    <div class="two even">
      <${Card} id="probes" title="Probes"><${Facts} pairs=${[
        ["Liveness", probe(summary.is_live, "health/live")], ["Readiness", probe(summary.is_ready, "health/ready")], ["Startup", probe(summary.has_started, "health/startup")],
        ["Runtime", summary.runtime_stalled ? html`<${Icon} tone="bad" /> runs nothing` : html`<${Icon} tone="good" /> runs`],
      ]} /></${Card}>
      <${Card} id="blocked" title="Blocked threads">${summary.blocked.length ? html`<${Facts} pairs=${summary.blocked.map((blocked) => [blocked.thread, html`<${TaskLink} name=${blocked.task} /> for ${duration(blocked.seconds)}`])} />` : html`<p>No task blocks a thread.</p>`}</${Card}>
      <${Card} id="workers" title="Tokio's runtime">${held.error ? html`<p class="bad" role="alert">${held.error.message}</p>` : runtime && html`<${Facts} pairs=${[
        ["workers", runtime.workers !== null && number(runtime.workers)], ["busy", runtime.busy_ratio !== null && html`<meter min="0" max="1" value=${runtime.busy_ratio} aria-label="Busy"></meter> ${percent(runtime.busy_ratio)}`],
        ["tasks alive", runtime.alive_tasks !== null && number(runtime.alive_tasks)], ["in the global queue", runtime.global_queue_depth !== null && number(runtime.global_queue_depth)],
      ]} />`}</${Card}>
      <${Card} id="process" title="Process"><${Facts} pairs=${[
        ["service", summary.service], ["version", summary.version], ["instance", summary.instance], ["time zone", summary.time_zone],
        ["started", summary.started && html`<${Clock} at=${summary.started} />, up <${Since} at=${summary.started} />`],
      ]} />
      ${summary.states && html`<h3>Tasks by state</h3><${Facts} pairs=${Object.entries(summary.states).filter(([, count]) => count).map(([state, count]) => [state, number(count)])} />`}</${Card}>
    </div>`;
}
