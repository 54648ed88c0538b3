"use strict";
// The page works without this file. With it, the header knows who is logged in, likes and comments are sent without a
// new page, and the view of the page is counted. Everything is set as text, never as HTML.
const $ = (s, r = document) => r.querySelector(s);
const root = document.documentElement;
const keep = (k, v) => { try { return v === undefined ? localStorage[k] : localStorage[k] = v; } catch { return ""; } };
const newID = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

// A write is repeated under its key until its outcome is known.
async function send(method, url, body, type) {
	const key = newID();
	for (let wait = 100; ; wait = Math.min(2 * wait, 2000)) {
		try {
			const headers = { "Idempotency-Key": key, Accept: "application/json" };
			if (type) headers["Content-Type"] = type;
			const res = await fetch(url, { method, body, headers });
			if (res.status < 500) return res;
		} catch { /* no answer: the same again */ }
		await new Promise((r) => setTimeout(r, wait));
	}
}

// Theme: as the system says, until the switch is used.
const themed = () => root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
if (keep("theme")) root.dataset.theme = keep("theme");
for (const b of document.querySelectorAll("[data-theme-switch]")) {
	const say = () => { b.textContent = themed() === "dark" ? "Light" : "Dark"; };
	b.hidden = false;
	say();
	b.addEventListener("click", () => { keep("theme", root.dataset.theme = themed() === "dark" ? "light" : "dark"); say(); });
}

// Who is logged in: the page itself is the same for everybody, so that an edge may keep it.
const account = $("[data-account]");
let me = fetch("/-/me", { headers: { Accept: "application/json" } }).then((r) => r.ok ? r.json() : null, () => null);
me.then((user) => {
	if (!user || !account) return;
	account.textContent = user.name;
	account.href = "/account";
});

// The view is posted once the page is shown, under an id of this page load, so that it counts once however often it is
// sent.
const page = document.body.dataset.page;
if (page) {
	const count = () => send("POST", "/-/beacon", JSON.stringify([{ id: newID(), path: page }]), "application/json");
	if (document.visibilityState === "visible") count();
	else document.addEventListener("visibilitychange", count, { once: true });
}

const login = () => { location.href = "/login?next=" + encodeURIComponent(location.pathname); };
const like = $("form[data-like]");
if (like) like.addEventListener("submit", async (e) => {
	e.preventDefault();
	if (!await me) return login();
	const res = await send("POST", like.action);
	if (res.status === 401) return login();
	if (!res.ok) return;
	const answer = await res.json(), b = $("[data-likes]");
	b.textContent = answer.likes.toLocaleString("en-US");
	like.classList.add("liked");
	$("button", like).setAttribute("aria-pressed", "true");
});

const talk = $("form[data-talk]");
if (talk) talk.addEventListener("submit", async (e) => {
	e.preventDefault();
	if (!await me) return login();
	const box = $("textarea", talk), err = $(".err", talk);
	const res = await send("POST", talk.action, new URLSearchParams({ text: box.value }));
	if (res.status === 401) return login();
	const answer = await res.json();
	err.textContent = res.ok ? "" : answer.error;
	if (!res.ok) return;
	const li = document.createElement("li"), who = document.createElement("b"), p = document.createElement("p");
	who.textContent = answer.author;
	p.textContent = answer.text;
	li.append(who, p);
	$(".talk").append(li);
	box.value = "";
});

// X-ray: each tier has written its part of the way into Server-Timing. On a hit the edge answers alone, and what is behind
// it stays hollow: it was not asked.
const TIERS = [["edge", "Edge", "cdn"], ["balancer", "Balancer", "lb"], ["web", "Web server", "metrics, session, cache"], ["database", "Databases", "shard, replica"]];
const ray = $("#xray"), timing = performance.getEntriesByType("navigation")[0]?.serverTiming || [];
if (ray && timing.some((t) => t.name === "edge")) {
	const by = Object.fromEntries(timing.map((t) => [t.name, t]));
	const ms = (v) => v < 0.1 ? "< 0.1 ms" : v.toFixed(1) + " ms";
	const hit = by.edge.description.includes(": hit");
	// What a tier took contains the tiers behind it.
	const own = (i) => Math.max(0, by[TIERS[i][0]].duration - (by[TIERS[i + 1]?.[0]]?.duration || 0));
	const asked = TIERS.filter(([k]) => by[k]);
	$("[data-took]", ray).textContent = ms(by.edge.duration);
	$("[data-verdict]", ray).textContent = "edge " + by.edge.description.split(": ").slice(1).join(": ");
	$("[data-verdict]", ray).className = hit ? "up" : "slow";
	$("[data-trail]", ray).textContent = hit ? by.edge.description.split(":")[0] + ". Nothing behind the edge was asked." : asked.map(([k]) => by[k].description.split(":")[0]).join(" → ");
	TIERS.forEach(([k, name, pkg], i) => {
		const li = document.createElement("li"), b = document.createElement("b"), took = document.createElement("span"), node = document.createElement("p"), tag = document.createElement("p"), of = document.createElement("p");
		li.className = !by[k] ? "off" : k === "edge" ? (hit ? "hit" : "miss") : i === TIERS.length - 1 || !by[TIERS[i + 1][0]] ? "last" : "";
		took.textContent = by[k] && k !== "database" ? ms(own(i)) : "";
		b.append(name, took);
		node.textContent = by[k] ? by[k].description.split(": ")[0] : k === "database" && by.web ? "not needed" : "not asked";
		tag.className = "tag";
		tag.textContent = k === "edge" ? by.edge.description.split(": ").slice(1).join(": ") : "";
		of.className = "soft";
		of.textContent = pkg;
		li.append(b, node, tag, of);
		$(".way", ray).append(li);
		if (by[k] && k !== "database") {
			const part = document.createElement("span");
			part.style.setProperty("--t", own(i).toFixed(2));
			if (k === "edge") part.className = hit ? "hit" : "miss";
			$(".bar", ray).append(part);
		}
	});
	ray.hidden = false;
	const details = $("details", ray);
	details.open = keep("xray") === "true";
	details.addEventListener("toggle", () => keep("xray", details.open));
}
