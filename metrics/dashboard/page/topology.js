"use strict";
// Topology: zones are bands, tiers are columns, nodes are buttons in a grid, so that nothing moves when a node comes or
// goes elsewhere. Arrows are measured from the buttons.
const topo = $("topology"), wires = el("svg:svg", { class: "wires", "aria-hidden": "true" });
let shape = "", drawn = "", nodeByID = {}, openNode = "";

function paintTopology(t, now) {
	const nodes = t.nodes || [], edges = t.edges || [];
	$("topology-section").hidden = !nodes.length;
	const next = nodes.map((n) => [n.zone, n.tier, n.id].join("/")).join();
	if (next !== shape) buildTopology(nodes, next);
	const into = {};
	for (const e of edges) if (e.kind !== "replication") into[e.to] = (into[e.to] || 0) + (e.rate || 0);
	for (const n of nodes) {
		const b = nodeByID[n.id];
		if (b.dataset.state !== n.state) {
			b.dataset.state = n.state;
			b.className = "node " + sign(n.state);
			b.replaceChild(ico(sign(n.state)), b.firstChild);
		}
		const state = n.state + (n.since ? " " + since(n.since, now) : "");
		const rate = into[n.id] > 0 ? num(into[n.id]) + "/s" : "";
		text(b.lastChild, [n.state === "up" ? "" : state, rate, n.detail].filter(Boolean).join(" · ") || " ");
		b.title = n.id + ": " + n.state;
		b.setAttribute("aria-expanded", openNode === n.id);
	}
	paintFlows(nodes, edges);
	const key = shape + topo.clientWidth + "x" + topo.clientHeight + nodes.map((n) => n.state) + edges.map((e) => e.from + e.to + Math.round(3 * Math.log10(1 + (e.rate || 0))));
	if (key !== drawn) { drawn = key; drawWires(nodes, edges); }
	$("topology-list").replaceChildren(...edges.map((e) => el("li", { "data-edge": e.from + ">" + e.to, "data-rate": e.rate ?? "" }, `${e.from} to ${e.to}: ${num(e.rate)}` + (e.errors > 0 ? `, ${num(e.errors)} errors` : ""))));
}

function buildTopology(nodes, next) {
	shape = next;
	drawn = "";
	const focus = document.activeElement?.dataset?.node;
	const tiers = [...new Set(nodes.map((n) => n.tier))], zones = [...new Set(nodes.map((n) => n.zone || ""))];
	nodeByID = {};
	topo.style.setProperty("--tiers", tiers.length);
	const bands = zones.map((zone, z) => {
		const cells = tiers.map((tier, i) => {
			const cell = el("div", { class: "cell" }, el("h4", {}, tier));
			if (i) cell.append(el("p", { class: "flow", "data-zone": zone, "data-tier": tier, hidden: "" }, el("b"), el("small")));
			for (const n of nodes.filter((n) => n.tier === tier && (n.zone || "") === zone)) {
				const label = zone && n.label.startsWith(zone + "-") ? n.label.slice(zone.length + 1) : n.label.endsWith("-" + zone) ? n.label.slice(0, -zone.length - 1) : n.label;
				const b = el("button", { type: "button", class: "node", "data-node": n.id, click: () => openSheet(n.id) }, el("span"), el("b", {}, label), el("em"));
				nodeByID[n.id] = b;
				cell.append(b);
			}
			return cell;
		});
		return el("section", { class: "band z" + z % 4, "aria-label": zone || "all zones" }, el("h3", {}, zone || "all zones"), el("div", { class: "cells" }, ...cells));
	});
	topo.replaceChildren(el("div", { class: "tiers", "aria-hidden": "true" }, ...tiers.map((t) => el("div", {}, t))), ...bands, wires);
	$("legend").replaceChildren(...SIGNS.map((s) => el("li", { class: s }, ico(s), s)));
	if (focus) nodeByID[focus]?.focus();
}

// The figure above a gap is what flows into the tier of that band; probes and errors stand apart.
function paintFlows(nodes, edges) {
	const place = Object.fromEntries(nodes.map((n) => [n.id, n]));
	const sums = {};
	for (const e of edges) {
		const to = place[e.to];
		if (!to || e.kind === "replication") continue;
		const s = sums[(to.zone || "") + "/" + to.tier] ||= { rate: 0, errors: 0, probes: 0 };
		s.rate += e.rate || 0; s.errors += e.errors || 0; s.probes += e.probes || 0;
	}
	for (const f of topo.querySelectorAll(".flow")) {
		const s = sums[f.dataset.zone + "/" + f.dataset.tier];
		f.hidden = !s;
		if (!s) continue;
		text(f.firstChild, num(s.rate) + "/s");
		text(f.lastChild, [s.errors > 0.05 ? num(s.errors) + " errors" : "", s.probes > 0 ? "+" + num(s.probes) + " probes" : ""].filter(Boolean).join(", "));
	}
}

// Arrows between two tiers of one band share a trunk, as on a map of lines; those that pass a tier take the lane at the
// foot of their band, and replication goes around on the right.
function drawWires(nodes, edges) {
	wires.replaceChildren();
	if (getComputedStyle(wires).display === "none") return;
	const o = topo.getBoundingClientRect();
	wires.setAttribute("viewBox", `0 0 ${o.width} ${o.height}`);
	const tiers = [...new Set(nodes.map((n) => n.tier))], zones = [...new Set(nodes.map((n) => n.zone || ""))];
	const at = {};
	for (const n of nodes) {
		const r = nodeByID[n.id].getBoundingClientRect(), band = nodeByID[n.id].closest(".band").getBoundingClientRect();
		at[n.id] = { n, l: r.left - o.left, r: r.right - o.left, y: r.top - o.top + r.height / 2, col: tiers.indexOf(n.tier), zone: n.zone || "", lane: band.bottom - o.top - 9, edge: band.right - o.left };
	}
	const dead = (p) => ["down", "frozen"].includes(p.n.state);
	const colors = ["--east", "--west", "--soft", "--draining"];
	const put = (d, rate, bad, color, cls = "") => {
		wires.append(el("svg:path", { d, class: bad ? "dead" : cls + " c" + color, "stroke-width": bad || cls ? 1.5 : Math.min(5, 1.2 + 1.4 * Math.log10(1 + rate)).toFixed(1) }));
		wires.lastChild.style.setProperty("--w", `var(${colors[color % 4]})`);
		if (!bad && !cls && rate > 0) wires.append(el("svg:path", { d, class: "move" }));
	};
	const tip = (x, y, color, left) => {
		wires.append(el("svg:path", { class: "tip", d: `M${x} ${y}l${left ? 9 : -9} -5.500v11z` }));
		wires.lastChild.style.setProperty("--w", `var(${colors[color % 4]})`);
	};
	const groups = {};
	for (const e of edges) {
		const a = at[e.from], b = at[e.to];
		if (!a || !b) continue;
		if (e.kind === "replication") {
			const x = Math.max(a.r, b.r) + 8 + 7 * (a.n.id.charCodeAt(1) % 3), bad = dead(a) || dead(b);
			put(`M${a.r} ${a.y}H${x}V${b.y}H${b.r + 7}`, e.rate || 0, bad, 2, "rep");
			if (!bad) tip(b.r + 1, b.y, 2, true);
			continue;
		}
		const k = [a.zone, a.col, b.col, b.zone === a.zone ? b.zone : "*"].join("/");
		(groups[k] ||= { from: {}, to: {}, a, b }).from[e.from] = (groups[k].from[e.from] || 0) + (e.rate || 0);
		groups[k].to[e.to] = (groups[k].to[e.to] || 0) + (e.rate || 0);
	}
	for (const g of Object.values(groups)) {
		const from = Object.keys(g.from).map((id) => at[id]), to = Object.keys(g.to).map((id) => at[id]);
		const band = zones.indexOf(g.a.zone === "" || to.every((p) => p.zone === to[0].zone) && g.a.zone === "witness" ? to[0].zone : g.a.zone);
		const color = Math.max(0, band) % 4, shift = 5 * (color - 1);
		const x2 = Math.min(...to.map((p) => p.l)) - 22 + shift;
		const far = g.b.col - g.a.col > 1;
		const x1 = far ? Math.max(...from.map((p) => p.r)) + 22 + shift : x2;
		const mid = far ? g.a.lane : from.reduce((s, p) => s + p.y, 0) / from.length;
		for (const p of from) put(`M${p.r} ${p.y}H${x1}V${mid}`, g.from[p.n.id], dead(p), color);
		if (far) put(`M${x1} ${mid}H${x2}`, Object.values(g.from).reduce((s, r) => s + r, 0), false, color);
		for (const p of to) {
			put(`M${x2} ${mid}V${p.y}H${p.l - 5}`, g.to[p.n.id], dead(p), color);
			if (!dead(p)) tip(p.l - 1, p.y, color);
		}
	}
}
new ResizeObserver(() => { drawn = ""; }).observe(topo);
