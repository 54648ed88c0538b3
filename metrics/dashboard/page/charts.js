"use strict";
// Charts over one time axis with one cursor; what is shaded are incidents, from injected to mended.
const plots = $("charts");
let plotRows = {}, cursor = null, chartData = { times: [], charts: [], incidents: [] };
const range = el("input", { type: "range", min: 0, max: 1, value: 1, "aria-label": "Time of the values" });
const cross = el("div", { class: "cross" }), axisx = el("div", { class: "axisx", "aria-hidden": "true" });
const foot = el("div", { class: "plot" }, el("div", {}, el("h3", {}, "Time")), el("div", { class: "opt" }), el("div", { class: "foot-range" }, axisx, range));
plots.append(foot, cross);

function paintCharts(d) {
	chartData = d;
	const n = Math.max(2, d.times.length);
	range.max = n - 1;
	if (cursor === null) range.value = n - 1;
	for (const c of d.charts) {
		const key = c.title + "/" + c.lines.map((l) => l.name).join("/");
		let row = plotRows[c.title];
		if (!row || row.key !== key) {
			const fresh = chartRow(c, key);
			if (row) row.el.replaceWith(fresh.el); else foot.before(fresh.el);
			row = plotRows[c.title] = fresh;
		}
		drawPlot(row, c, n);
	}
	const first = d.times[0], last = d.times.at(-1);
	axisx.replaceChildren(...(first ? [0, 0.25, 0.5, 0.75, 1].map((f) => el("span", {}, clock(first + f * (last - first)))) : []));
	readCharts();
}

function chartRow(c, key) {
	const vals = el("div", { class: "vals" }, ...c.lines.map((l, i) => el("div", {}, el("span", { class: "key k" + i % 8 }), el("span", {}, l.name), el("b", { "data-series": c.title + "/" + l.name }))));
	const axis = el("div", { class: "axis", "aria-hidden": "true" }, el("span"), el("span", {}, "0"));
	const svg = el("svg:svg", { viewBox: "0 0 600 100", preserveAspectRatio: "none", "aria-hidden": "true" });
	const e = el("div", { class: "plot", "data-chart": c.title }, el("div", {}, el("h3", {}, c.title, el("span", { class: "small soft" }, " " + c.unit)), vals), axis, svg);
	return { key, el: e, vals, axis, svg };
}

const nice = (v) => {
	if (v <= 0) return 1;
	const b = 10 ** Math.floor(Math.log10(v));
	return [1, 2, 2.5, 5, 10].find((k) => k * b >= v) * b;
};

function drawPlot(row, c, n) {
	let top = 0;
	for (const l of c.lines) for (const v of l.points) if (v > top) top = v;
	top = c.unit === "%" && top <= 100 ? 100 : nice(top * 1.02);
	text(row.axis.firstChild, num(top));
	const first = chartData.times[0], span = Math.max(1, chartData.times.at(-1) - first), X = (t) => Math.max(0, Math.min(600, (new Date(t) - first) / span * 600));
	const parts = chartData.incidents.filter((i) => i.injected && X(i.mended || chartData.now) > 0).map((i) => el("svg:rect", { x: X(i.injected), y: 0, height: 100, width: Math.max(1.5, X(i.mended || chartData.now) - X(i.injected)) }));
	parts.push(el("svg:line", { x1: 0, x2: 600, y1: 50, y2: 50 }), el("svg:line", { x1: 0, x2: 600, y1: 0.5, y2: 0.5 }));
	c.lines.forEach((l, i) => {
		let d = "", pen = false; // a gap where nothing was measured
		const from = n - l.points.length;
		l.points.forEach((v, j) => {
			if (v === null) { pen = false; return; }
			d += `${pen ? "L" : "M"}${((from + j) / (n - 1) * 600).toFixed(1)} ${(99 - v / top * 97).toFixed(1)}`;
			pen = true;
		});
		parts.push(el("svg:path", { class: "k" + i % 8, d }));
	});
	row.svg.replaceChildren(...parts);
}

function readCharts() {
	const n = chartData.times.length;
	const i = cursor === null ? n - 1 : Math.min(cursor, n - 1);
	for (const c of chartData.charts) {
		const row = plotRows[c.title];
		c.lines.forEach((l, j) => text(row.vals.children[j].lastChild, num(l.points[i - n + l.points.length]) + (c.unit === "%" ? " %" : "")));
	}
	const b = range.getBoundingClientRect(), o = plots.getBoundingClientRect();
	cross.hidden = cursor === null;
	cross.style.left = b.left - o.left + b.width * i / Math.max(1, n - 1) + "px";
	const at = chartData.times[i];
	text($("when"), cursor === null || !at ? "values: now" : "values at " + clock(at));
	range.setAttribute("aria-valuetext", at ? clock(at) : "now");
}
range.addEventListener("input", () => { cursor = +range.value >= +range.max ? null : +range.value; readCharts(); });
plots.addEventListener("pointermove", (e) => {
	const b = range.getBoundingClientRect(), f = (e.clientX - b.left) / b.width;
	cursor = f < 0 || f > 0.995 ? null : Math.round(f * range.max);
	readCharts();
});
plots.addEventListener("pointerleave", () => { cursor = null; readCharts(); });
