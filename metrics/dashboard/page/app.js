"use strict";
// State: what the server last said, and what is searched for.
let last, logs = [], said = "";

function show(d) {
  last = d;
  document.title = d.title;
  $("title").textContent = d.title;
  $("status").className = "";
  $("status").textContent = `live · ${clock(d.now)}`;
  const nodes = d.topology.nodes || [];
  const trouble = [...nodes.filter((n) => n.state !== "up").map((n) => `${n.label} is ${n.state}`), ...d.slos.filter((s) => s.alert).map((s) => `${s.name} burns its error budget`)].join(", ");
  if (trouble !== said) { // a live region: only what changes is read out
    said = trouble;
    $("trouble").textContent = trouble;
  }
  $("tiles").replaceChildren(...d.tiles.map((t) => el("div", { class: "tile" }, el("dt", {}, t.name), el("dd", { "data-tile": t.name }, `${num(t.value)} ${t.unit}`))));
  if (nodes.length) {
    $("topology-section").hidden = false;
    const t = { nodes, edges: d.topology.edges || [] };
    $("topology").replaceChildren(drawTopology(t));
    $("topology-list").replaceChildren(...listTopology(t));
  }
  $("slo-section").hidden = !d.slos.length;
  $("slos").replaceChildren(...d.slos.map(drawSLO));
  $("charts").replaceChildren(...d.charts.map(drawChart));
  const counts = Object.entries(d.security || {}).filter(([, n]) => n > 0);
  $("security").textContent = counts.length ? "Security events: " + counts.map(([k, n]) => `${k} ${num(n)}`).join(", ") : "";
  $("events-section").hidden = !d.events.length;
  $("events").replaceChildren(...d.events.slice(-60).reverse().map((e) => el("li", {}, el("time", {}, clock(e.at)), el("span", { class: e.kind }, e.text))));
  $("errors-section").hidden = !d.errors.length;
  $("errors").replaceChildren(...d.errors.slice(0, 20).map((e) => el("tr", {}, el("td", {}, String(e.count)), el("td", {}, e.message), el("td", {}, e.example || ""), el("td", {}, clock(e.first)), el("td", {}, clock(e.last)), el("td", {}, e.server || ""))));
  $("cohorts-section").hidden = !d.cohorts.length;
  $("cohorts").replaceChildren(...d.cohorts.map(drawCohort));
  $("logs-section").hidden = !d.logs;
  const servers = $("server"), known = [...servers.options].slice(1).map((o) => o.value);
  if (known.join("\n") !== d.servers.join("\n")) {
    const chosen = servers.value;
    servers.replaceChildren(el("option", { value: "" }, "all"), ...d.servers.map((s) => el("option", {}, s)));
    servers.value = d.servers.includes(chosen) ? chosen : "";
  }
  $("level-control").hidden = !d.level;
  if (d.level && document.activeElement !== $("level-set")) $("level-set").value = d.level;
}

function showLogs() {
  const line = (l) => l.message + " " + Object.entries(l.attrs || {}).map(([k, v]) => k + "=" + v).join(" ");
  $("found").textContent = `${logs.length} records`;
  $("logs").replaceChildren(...logs.map((l) => {
    const id = (l.attrs || {}).request_id;
    const follow = id ? el("button", { type: "button", "data-id": id, title: "Show this request only" }, id) : "";
    return el("tr", { class: l.level }, el("td", {}, clock(l.at)), el("td", {}, l.level), el("td", {}, l.server || ""), el("td", {}, follow), el("td", {}, line(l)));
  }));
}

// Who is at a record by keyboard keeps it: the table stands still until the focus leaves it.
const reading = () => $("logs").contains(document.activeElement);

async function search() {
  const q = new URLSearchParams({ limit: 100 });
  for (const name of ["text", "level", "server", "id", "last"]) if ($(name).value) q.set(name, $(name).value);
  const r = await fetch("logs?" + q, { cache: "no-store" });
  if (!r.ok) throw new Error(r.status);
  const found = await r.json();
  if (reading()) return;
  logs = found;
  showLogs();
}

$("log-search").addEventListener("submit", (e) => { e.preventDefault(); search(); });
for (const name of ["text", "id"]) $(name).addEventListener("input", () => search());
for (const name of ["level", "server", "last"]) $(name).addEventListener("change", () => search());
$("logs").addEventListener("click", (e) => { if (e.target.dataset.id) { $("id").value = e.target.dataset.id; $("last").value = ""; $("id").focus(); search(); } });
$("level-set").addEventListener("change", () => fetch("level", { method: "POST", body: new URLSearchParams({ level: $("level-set").value }) }));

async function poll() {
  try {
    const r = await fetch("data", { cache: "no-store" });
    if (!r.ok) throw new Error(r.status);
    show(await r.json());
    if (last.logs && !reading()) await search();
    setTimeout(poll, last.interval_ms);
  } catch (e) {
    $("status").className = "lost";
    $("status").textContent = "connection lost, trying again";
    setTimeout(poll, 2000);
  }
}
poll();
