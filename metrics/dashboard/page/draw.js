"use strict";
// Drawing. Everything shown is set as text, never as HTML: names and messages may come from an attacker.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
function el(name, attrs, ...kids) {
  const e = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const k in attrs) e.setAttribute(k, attrs[k]);
  e.append(...kids);
  return e;
}
function num(v) {
  if (v === null || v === undefined) return "–";
  const a = Math.abs(v);
  if (a >= 1e6) return (v / 1e6).toFixed(1) + "M";
  if (a >= 1e4) return (v / 1e3).toFixed(1) + "k";
  return a >= 100 || Number.isInteger(v) ? v.toFixed(0) : v.toFixed(a >= 1 ? 1 : 2);
}
const clock = (t) => new Date(t).toLocaleTimeString();
const percent = (v, digits) => (100 * v).toFixed(digits) + " %";

function drawChart(c) {
  const W = 300, H = 90, n = Math.max(2, ...c.lines.map((l) => l.points.length));
  let top = 0;
  for (const l of c.lines) for (const p of l.points) if (p > top) top = p;
  const scale = top > 0 ? top * 1.1 : 1;
  const svg = el("svg:svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const f of [0.5, 1]) svg.append(el("svg:line", { class: "grid", x1: 0, x2: W, y1: H - 2 - f * (H - 14), y2: H - 2 - f * (H - 14) }));
  c.lines.forEach((l, i) => {
    let run = [];
    const flush = () => { if (run.length > 1) svg.append(el("svg:polyline", { class: "s" + (i % 8), points: run.join(" ") })); run = []; };
    l.points.forEach((p, j) => { if (p === null) flush(); else run.push(`${(j / (n - 1) * W).toFixed(1)},${(H - 2 - p / scale * (H - 14)).toFixed(1)}`); });
    flush();
  });
  const legend = el("ul", { class: "legend" });
  c.lines.forEach((l, i) => legend.append(el("li", {}, el("span", { class: "key s" + (i % 8), "aria-hidden": "true" }), l.name + " ", el("b", { "data-series": c.title + "/" + l.name }, num(l.points.at(-1)) + " " + c.unit))));
  if (!c.lines.length) legend.append(el("li", {}, "no data yet"));
  return el("article", { class: "chart", "data-chart": c.title }, el("h3", {}, `${c.title} · max ${num(top)} ${c.unit}`), svg, legend);
}

function drawTopology(t) {
  const tiers = [], zones = [];
  for (const n of t.nodes) { if (!tiers.includes(n.tier)) tiers.push(n.tier); if (!zones.includes(n.zone || "")) zones.push(n.zone || ""); }
  zones.sort();
  const bw = 124, bh = 36, gx = 48, gy = 10, x0 = 16, y0 = 34, pos = {};
  let height = 0;
  tiers.forEach((tier, i) => {
    let y = y0;
    for (const z of zones) {
      const ns = t.nodes.filter((n) => n.tier === tier && (n.zone || "") === z);
      for (const n of ns) { pos[n.id] = { x: x0 + i * (bw + gx), y, n }; y += bh + gy; }
      if (ns.length) y += 8;
    }
    height = Math.max(height, y);
  });
  const width = x0 * 2 + tiers.length * (bw + gx) - gx;
  const svg = el("svg:svg", { width, height: height + 6, viewBox: `0 0 ${width} ${height + 6}`, role: "img", "aria-label": "Nodes and the traffic between them; the list that follows says the same" });
  tiers.forEach((tier, i) => svg.append(el("svg:text", { class: "tier", x: x0 + i * (bw + gx), y: 20 }, tier)));
  for (const e of t.edges) {
    const a = pos[e.from], b = pos[e.to];
    if (!a || !b) continue;
    const same = a.x === b.x, x1 = a.x + bw, x2 = same ? b.x + bw : b.x, y1 = a.y + bh / 2, y2 = b.y + bh / 2, m = same ? x1 + 26 : (x1 + x2) / 2;
    const p = el("svg:path", { class: "edge" + (e.rate > 0 ? "" : " idle"), "data-edge": e.from + ">" + e.to, "data-rate": e.rate, "stroke-width": (e.rate > 0 ? Math.min(6, 1 + Math.log10(1 + e.rate) * 1.5) : 1).toFixed(1), d: `M${x1},${y1} C${m},${y1} ${m},${y2} ${x2},${y2}` });
    p.append(el("svg:title", {}, `${a.n.label} to ${b.n.label}: ${num(e.rate)} per second`));
    svg.append(p);
  }
  for (const id in pos) {
    const { x, y, n } = pos[id];
    const out = t.edges.filter((e) => e.to === id).reduce((s, e) => s + e.rate, 0);
    svg.append(el("svg:g", { class: "node " + n.state, "data-node": id, "data-state": n.state },
      el("svg:rect", { x, y, width: bw, height: bh, rx: 6 }),
      el("svg:text", { x: x + 8, y: y + 15 }, n.label),
      el("svg:text", { class: "sub", x: x + 8, y: y + 29 }, [n.state === "up" ? "" : n.state, n.detail, out > 0 ? num(out) + "/s" : ""].filter(Boolean).join(" · ")),
      el("svg:title", {}, `${n.label}: ${n.state}${n.zone ? ", " + n.zone : ""}`)));
  }
  return svg;
}

// The same for those who can't see the drawing.
function listTopology(t) {
  return t.nodes.map((n) => el("li", {}, [n.label, n.tier, n.zone, n.state, n.detail].filter(Boolean).join(", ")));
}

function drawSLO(s) {
  const left = Math.max(0, Math.min(1, s.budget_left));
  const bar = el("meter", { min: 0, max: 1, low: 0.1, optimum: 1, value: left.toFixed(3), "aria-label": "error budget left of " + s.name });
  return el("tr", { "data-slo": s.name, class: s.alert || "" }, el("th", { scope: "row" }, s.name), el("td", {}, percent(s.objective, 2)), el("td", {}, `${percent(s.good, 3)} of ${num(s.events)}`),
    el("td", {}, bar, " " + percent(s.budget_left, 0)), el("td", {}, num(s.burn_1h)), el("td", {}, num(s.burn_6h)), el("td", {}, s.alert || "fine"));
}

// Each cohort's share of its own first period, the darker the larger.
function drawCohort(c) {
  const cells = c.active.map((n, age) => {
    const share = c.active[0] > 0 ? Math.min(1, n / c.active[0]) : 0, td = el("td", {}, age ? percent(share, 0) : num(n));
    if (age) td.style.setProperty("--share", share.toFixed(2));
    return td;
  });
  return el("tr", {}, el("th", { scope: "row" }, new Date(c.start).toLocaleDateString()), ...cells);
}
