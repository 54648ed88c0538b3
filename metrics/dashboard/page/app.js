"use strict";
// State: what the server last said, what is searched for, and the secret that actions need.
let last, logs = [], said = "";

// The secret of this run comes with the address that the program prints (#secret=...), or is asked for once.
const found = new URLSearchParams(location.hash.slice(1)).get("secret");
try {
	if (found) sessionStorage.secret = found;
} catch { /* then it is asked for */ }
if (found) history.replaceState(null, "", location.pathname + location.search);
const secret = (s) => { try { return s === undefined ? sessionStorage.secret || "" : sessionStorage.secret = s; } catch { return s || ""; } };

async function act(target, action) {
	const res = await fetch("act", { method: "POST", headers: { "X-Dashboard-Secret": secret() }, body: new URLSearchParams({ target, action }) });
	const answer = res.ok ? "" : (await res.text()).trim();
	text($("actsaid"), answer);
	if (res.status === 403) askSecret();
	await refresh();
	return answer;
}

function askSecret() {
	if ($("secret")) return;
	const input = el("input", { id: "secret", type: "password", autocomplete: "off" });
	const form = el("form", { submit: (e) => { e.preventDefault(); secret(input.value.trim()); form.remove(); text($("actsaid"), ""); } }, el("label", { class: "small" }, "Secret of this run, printed at its start", input), el("button", {}, "Use it"));
	$("acts").before(form);
	input.focus();
}

function button(target, a) {
	const b = el("button", { type: "button", "data-action": a.name, "aria-pressed": String(a.active), click: () => { b.disabled = true; act(target, a.name).finally(() => { b.disabled = false; }); } });
	b.append(a.label || a.name, el("small", {}, a.detail || ""));
	if (a.progress !== null && a.active) b.append(el("progress", { max: 1, value: a.progress }));
	return b;
}

// Buttons stay while only their texts change, so that the focus stays too.
function buttons(box, target, actions) {
	const key = actions.map((a) => a.name + (a.label || "") + (a.active && a.progress !== null)).join();
	if (box.dataset.key !== key) {
		box.dataset.key = key;
		const focus = document.activeElement?.dataset?.action;
		box.replaceChildren(...actions.map((a) => button(target, a)));
		if (focus) [...box.children].find((b) => b.dataset.action === focus)?.focus();
		return;
	}
	actions.forEach((a, i) => {
		const b = box.children[i];
		b.setAttribute("aria-pressed", String(a.active));
		text(b.querySelector("small"), a.detail || "");
		const p = b.querySelector("progress");
		if (p) p.value = a.progress;
	});
}

function show(d) {
	last = d;
	document.title = d.title;
	text($("title"), d.title);
	$("lost").hidden = true;
	document.body.classList.remove("stalled");
	text($("status"), `live · ${clock(d.now)}`);
	verdict(d);
	$("tiles").replaceChildren(...d.tiles.map((t) => el("div", {}, el("dt", {}, t.name), el("dd", { "data-tile": t.name }, `${num(t.value)} ${t.unit}`))));
	paintTopology(d.topology, d.now);
	$("acts-section").hidden = !d.actions.length;
	buttons($("acts"), "", d.actions);
	$("slo-section").hidden = !d.slos.length;
	$("slos").replaceChildren(...d.slos.map(objective));
	paintCharts(d);
	events(d);
	$("routes-section").hidden = !d.routes?.length;
	$("routes").replaceChildren(...(d.routes || []).slice(0, 24).map(route));
	$("errors-section").hidden = !d.errors.length;
	$("errors").replaceChildren(...d.errors.slice(0, 20).map((e) => el("tr", {}, ...[e.count, e.message, e.example, clock(e.first), clock(e.last), e.server].map((v) => el("td", {}, String(v ?? ""))))));
	$("cohorts-section").hidden = !d.cohorts.length;
	$("cohorts").replaceChildren(...d.cohorts.map(cohort));
	$("logs-section").hidden = !d.logs;
	const servers = $("server"), known = [...servers.options].slice(1).map((o) => o.value);
	if (known.join("\n") !== d.servers.join("\n")) {
		const chosen = servers.value;
		servers.replaceChildren(el("option", { value: "" }, "all"), ...d.servers.map((s) => el("option", {}, s)));
		servers.value = d.servers.includes(chosen) ? chosen : "";
	}
	$("level-control").hidden = !d.level;
	if (d.level && document.activeElement !== $("level-set")) $("level-set").value = d.level;
	fillSheet();
}

// One sentence, read out only when it changes.
function verdict(d) {
	const bad = (d.topology.nodes || []).filter((n) => !["up", "new"].includes(n.state));
	const burning = d.slos.filter((s) => s.alert).map((s) => `${s.name} burns its error budget`);
	const names = bad.slice(0, 4).map((n) => `${n.label} is ${n.state}`);
	if (bad.length > 4) names.push(`${bad.length - 4} more nodes are not up`);
	const say = [...burning, ...names].join(", ") || "Serving";
	const level = burning.length ? "down" : bad.length ? "slow" : "up";
	if (say === said) return;
	said = say;
	$("trouble").className = "verdict " + level;
	$("trouble").replaceChildren(ico(level === "slow" ? "warn" : level, level), say);
}

function objective(s) {
	const left = Math.max(0, Math.min(1, s.budget_left));
	const meter = el("meter", { min: 0, max: 1, low: 0.25, optimum: 1, value: left.toFixed(3), "aria-label": "error budget left of " + s.name });
	const burn = (v, cls = "") => el("td", { class: (v > 6 ? "slow " : "") + cls }, (v > 6 ? "▲ " : "") + num(v));
	return el("tr", { "data-slo": s.name }, el("th", { scope: "row" }, `${s.name} ${percent(s.objective, 1)}`), el("td", {}, meter), el("td", {}, percent(s.budget_left, 0)), burn(s.burn_1h), burn(s.burn_6h, "opt"));
}

const ms = (v) => v === null || v === undefined ? "–" : v >= 1000 ? (v / 1000).toFixed(2) + " s" : num(v) + " ms";
function route(r) {
	return el("tr", {}, el("th", { scope: "row" }, `${r.route} `, el("span", { class: "soft small" }, r.server)), el("td", {}, num(r.rate) + "/s"), el("td", { class: r.errors > 0 ? "down" : "" }, num(r.errors) + "/s"), el("td", { class: "opt" }, ms(r.p50_ms)), el("td", {}, ms(r.p99_ms)), el("td", { class: "opt" }, r.apdex === null ? "–" : r.apdex.toFixed(2)));
}

// Each cohort's share of its own first period, the darker the larger.
function cohort(c) {
	return el("tr", {}, el("th", { scope: "row" }, new Date(c.start).toLocaleDateString()), ...c.active.map((n, age) => {
		const share = c.active[0] > 0 ? Math.min(1, n / c.active[0]) : 0, td = el("td", {}, age ? percent(share, 0) : num(n));
		if (age) td.style.setProperty("--share", share.toFixed(2));
		return td;
	}));
}

function events(d) {
	const counts = Object.entries(d.security || {}).filter(([, n]) => n > 0);
	text($("security"), counts.length ? "Security events: " + counts.map(([k, n]) => `${k} ${num(n)}`).join(", ") : "");
	$("events-section").hidden = !d.events.length;
	const after = (i, t) => ((new Date(t) - new Date(i.injected)) / 1000).toFixed(1) + " s";
	$("incidents").replaceChildren(...d.incidents.slice(-8).reverse().map((i) => {
		const steps = i.injected ? [
			el("span", {}, ico("see", "slow"), i.noticed ? " noticed " + after(i, i.noticed) : " not yet noticed"),
			el("span", {}, ico("mend", "up"), i.mended ? " mended " + after(i, i.mended) : " not yet mended")] : [];
		if (i.felt) steps.push(el("span", { class: i.felt.errors ? "down" : "" }, `felt: ${num(i.felt.errors)} errors of ${num(i.felt.requests)}, p99 ${ms(i.felt.p99_ms)}`), el("span", {}, i.felt.text || ""));
		if (i.restored) steps.push(el("span", { class: "soft" }, "restored " + clock(i.restored)));
		return el("li", { "data-incident": i.target || "" }, el("time", {}, clock(i.injected || i.noticed)), el("div", {}, el("b", {}, i.text), el("p", {}, ...steps)));
	}));
	$("events").replaceChildren(...d.events.slice(-60).reverse().map((e) => el("li", {}, el("time", {}, clock(e.at)), el("span", { class: e.kind }, e.text))));
}

// The sheet of one node covers; it does not push.
const sheet = $("sheet");
function openSheet(id) {
	if (openNode === id) return closeSheet();
	openNode = id;
	sheet.replaceChildren(el("div", { class: "head" }, el("h2", { id: "sheet-name" }, id), el("button", { type: "button", class: "push", click: closeSheet }, "Close")), el("p", { class: "sign" }), el("div", { class: "row" }), el("dl", { class: "facts" }), el("h3", {}, "Log"), el("ul", { class: "log" }));
	sheet.hidden = false;
	fillSheet();
	sheetLog();
	sheet.querySelector("button").focus();
}
function closeSheet() {
	const was = openNode;
	openNode = "";
	sheet.hidden = true;
	nodeByID[was]?.setAttribute("aria-expanded", "false");
	nodeByID[was]?.focus();
}
addEventListener("keydown", (e) => { if (e.key === "Escape" && openNode) closeSheet(); });
function fillSheet() {
	const n = openNode && (last.topology.nodes || []).find((n) => n.id === openNode);
	if (!n) return;
	const p = sheet.querySelector(".sign"), state = n.state + (n.since ? " for " + since(n.since, last.now) : "");
	if (p.dataset.say !== state) {
		p.dataset.say = state;
		p.className = "sign " + sign(n.state);
		p.replaceChildren(ico(sign(n.state)), state);
	}
	buttons(sheet.querySelector(".row"), n.id, n.actions || []);
	const facts = [["tier", n.tier], ["zone", n.zone || "all"], ...(n.detail ? [["detail", n.detail]] : []), ...(n.figures || []).map((f) => [f.name, num(f.value) + (f.unit ? " " + f.unit : "")])];
	sheet.querySelector(".facts").replaceChildren(...facts.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
}
async function sheetLog() {
	if (!openNode || !last.logs) return;
	const id = openNode, r = await fetch("logs?" + new URLSearchParams({ server: id, limit: 12 }), { cache: "no-store" });
	if (!r.ok || openNode !== id) return;
	const records = await r.json(), own = last.events.filter((e) => e.text.includes(id) || e.target === id).slice(-8).reverse();
	sheet.querySelector(".log").replaceChildren(...own.map((e) => el("li", {}, `${clock(e.at)} ${e.text}`)), ...records.map((l) => el("li", {}, `${clock(l.at)} ${l.level} ${l.message}`)));
}

function showLogs() {
	const line = (l) => l.message + " " + Object.entries(l.attrs || {}).map(([k, v]) => k + "=" + v).join(" ");
	text($("found"), `${logs.length} records`);
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

// Theme: as the system says, until the switch is used.
const root = document.documentElement, themed = () => root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
if (keep("theme")) root.dataset.theme = keep("theme");
const themeLabel = () => text($("theme"), themed() === "dark" ? "Light" : "Dark");
$("theme").addEventListener("click", () => { keep("theme", root.dataset.theme = themed() === "dark" ? "light" : "dark"); themeLabel(); drawn = ""; });
themeLabel();

async function refresh() {
	const r = await fetch("data", { cache: "no-store" });
	if (!r.ok) throw new Error(r.status);
	show(await r.json());
}
async function poll() {
	try {
		await refresh();
		if (last.logs && !reading()) await search();
		await sheetLog();
		setTimeout(poll, last.interval_ms);
	} catch (e) {
		$("lost").hidden = false;
		text($("lost"), `Connection lost at ${clock(Date.now())}, trying again`);
		document.body.classList.add("stalled");
		setTimeout(poll, 2000);
	}
}
poll();
