"use strict";
// Helpers. Everything shown is set as text, never as HTML: names and messages may come from an attacker.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
// el("svg:path", { class: "x" }, child, "text") makes an element; functions among the attributes become listeners.
function el(name, attrs, ...kids) {
	const e = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
	for (const k in attrs) {
		if (typeof attrs[k] === "function") e.addEventListener(k, attrs[k]);
		else if (attrs[k] !== undefined) e.setAttribute(k, attrs[k]);
	}
	e.append(...kids);
	return e;
}
const ico = (name, cls = name) => el("svg:svg", { class: "ico " + cls, "aria-hidden": "true" }, el("svg:use", { href: "#i-" + name }));
const text = (e, s) => { if (e.textContent !== s) e.textContent = s; };
const SIGNS = ["up", "slow", "frozen", "down", "draining", "new"];
const sign = (state) => SIGNS.includes(state) ? state : "warn";

// Unknown is a dash, never a zero.
function num(v) {
	if (v === null || v === undefined || Number.isNaN(v)) return "–";
	for (const [n, d, u] of [[1e9, 1e9, "B"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) if (Math.abs(v) >= n) return (v / d).toFixed(1) + u;
	if (v >= 1000) return Math.round(v).toLocaleString("en-US");
	return v >= 10 || Number.isInteger(v) ? String(Math.round(v)) : v.toFixed(Math.abs(v) < 0.1 ? 2 : 1);
}
const clock = (t) => new Date(t).toLocaleTimeString("en-GB");
const percent = (v, digits) => v === null || v === undefined ? "–" : (100 * v).toFixed(digits) + " %";
const since = (t, now) => {
	const s = Math.max(0, Math.round((now - new Date(t)) / 1000));
	return s < 60 ? s + " s" : s < 3600 ? Math.floor(s / 60) + " min" : Math.floor(s / 3600) + " h";
};
const keep = (k, v) => { try { return v === undefined ? localStorage[k] : localStorage[k] = v; } catch { return ""; } };
