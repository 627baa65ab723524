// The status page: asks /statusz every two seconds, keeps the last minutes, and draws them. Names come from outside: they only ever become text.
"use strict";
const EVERY = 2000, PATIENCE = 8000, KEPT = 150, RECENT = 8, PAGE = 25, MOST = 500, NOTICES = 20;
const LEVELS = { good: 0, notice: 1, paused: 2, exhausted: 3, down: 4 };
const BADGES = { good: "● healthy", notice: "◆ worth knowing", paused: "❚❚ paused", exhausted: "▲ exhausted", down: "✕ down" };
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const pools = new Map();
const total = { inUse: [], waiting: [], p99: [], rate: [], clients: [], refused: [] };
let before = null, recent = [], answered = 0, shown = PAGE, held = false, failed = false, asking = false, timer = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
function say(element, text) { if (element.textContent !== text) element.textContent = text; }
function keep(list, value) { list.push(value); if (list.length > KEPT) list.shift(); }

function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(value >= 1e5 ? 0 : 1) + " k";
  return Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 1 : 0);
}
function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  if (seconds < 60) return seconds.toFixed(1) + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min " + Math.floor(seconds % 60) + " s";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h " + Math.floor(seconds / 60 % 60) + " min";
  return Math.floor(seconds / 86400) + " d " + Math.floor(seconds / 3600 % 24) + " h";
}
function bytes(value) { return value === null || value === undefined ? "–" : (value / 1048576).toFixed(1) + " MiB"; }
function sum(list) { return list.reduce((all, one) => all + one, 0); }
function words(label) { return label.replaceAll("_", " "); }

// As Prometheus estimates it: evenly spread within a bucket.
function quantile(bounds, counts, share) {
  const all = sum(counts);
  if (all === 0) return null;
  let below = 0;
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] > 0 && below + counts[i] >= share * all) {
      if (i >= bounds.length) break;
      const lower = i === 0 ? 0 : bounds[i - 1];
      return lower + (bounds[i] - lower) * (share * all - below) / counts[i];
    }
    below += counts[i];
  }
  return bounds[bounds.length - 1];
}
function since(now, then) { return now.map((value, i) => Math.max(0, value - (then ? then[i] : 0))); }

// A small chart: an area, its line, and a dashed line where the limit is. Said in words for those who do not see it.
function chart() {
  const svg = draw("svg", { class: "chart", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" });
  svg.append(draw("line", { class: "limit", x1: 0, x2: 100, y1: 0, y2: 0, visibility: "hidden" }), draw("path", { class: "area" }), draw("path", { class: "trace" }));
  return svg;
}
function plot(svg, name, values, shownAs, limit) {
  const known = values.filter((value) => value !== null);
  const highest = Math.max(limit || 0, ...known, 1e-9);
  const window = Math.max(values.length, 30), left = (window - values.length) * 100 / (window - 1);
  const place = (value, i) => [left + i * 100 / (window - 1), 29 - 28 * (value ?? 0) / highest].map((n) => n.toFixed(2)).join(" ");
  const points = values.map(place);
  const line = points.length > 1 ? "M" + points.join("L") : "";
  const [limitLine, area, trace] = svg.children;
  trace.setAttribute("d", line);
  area.setAttribute("d", line && line + `L100 30L${left.toFixed(2)} 30Z`);
  const y = limit ? (29 - 28 * limit / highest).toFixed(2) : 0;
  limitLine.setAttribute("visibility", limit ? "visible" : "hidden");
  limitLine.setAttribute("y1", y);
  limitLine.setAttribute("y2", y);
  const span = time(Math.max(0, values.length - 1) * EVERY / 1000);
  const last = values.length ? values[values.length - 1] : null;
  svg.setAttribute("aria-label", `${name} over the last ${span}: now ${shownAs(last)}, highest ${shownAs(known.length ? Math.max(...known) : null)}` + (limit ? `, limit ${shownAs(limit)}` : ""));
}

function table(place, head, rows, none) {
  const holder = typeof place === "string" ? at(place) : place;
  if (rows.length === 0) { holder.replaceChildren(make("p", "quiet", none)); return; }
  let body = holder.querySelector("tbody");
  if (!body) {
    const element = make("table"), top = make("thead"), row = make("tr");
    for (const [name, kind] of head) { const cell = make("th", kind, name); cell.scope = "col"; row.append(cell); }
    top.append(row);
    body = make("tbody");
    if (head[0][0]) element.append(top);
    element.append(body);
    holder.replaceChildren(element);
  }
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((values, i) => {
    const row = body.rows[i] || body.insertRow();
    values.forEach((value, j) => {
      if (!row.cells[j]) {
        const cell = make(j === 0 ? "th" : "td", head[j][1]);
        if (j === 0) cell.scope = "row";
        row.append(cell);
      }
      say(row.cells[j], String(value));
    });
  });
}

function tile(name) {
  const element = make("div", "tile");
  element.append(make("span", "name", name), make("span", "value", "–"), chart());
  at("tiles").append(element);
  return (value, small, values, shownAs, limit) => {
    const text = element.children[1];
    text.replaceChildren(value);
    if (small) text.append(" ", make("small", "", small));
    plot(element.children[2], name, values, shownAs, limit);
  };
}
const tiles = {
  inUse: tile("Connections in use"), waiting: tile("Clients waiting"), p99: tile("Wait, 99th percentile"),
  rate: tile("Throughput"), clients: tile("Clients"), refused: tile("Refused"),
};

function busy(pool) { const c = pool.connections; return c.leased + c.resetting + c.probing; }
function done(pool) { return pool.protocol === "redis" ? pool.queries : pool.transactions; }
function refused(pool) { return sum(Object.values(pool.refusals)); }

// What is kept of one pool, and its card.
class Card {
  constructor() {
    this.past = { inUse: [], waiting: [], p99: [], rate: [] };
    this.counts = [];
    this.element = null;
  }
  note(pool, bounds, gap) {
    this.rate = gap && this.pool ? Math.max(0, done(pool) - done(this.pool)) / gap : null;
    this.counts.push(pool.wait_counts);
    if (this.counts.length > RECENT) this.counts.shift();
    this.p99 = quantile(bounds, since(pool.wait_counts, this.counts[0]), 0.99);
    this.pool = pool;
    keep(this.past.inUse, busy(pool));
    keep(this.past.waiting, pool.waiters);
    keep(this.past.p99, this.p99);
    keep(this.past.rate, this.rate);
  }
  build() {
    const card = make("article", "pool"), title = make("div", "title"), use = make("div", "use"), sparks = make("div", "sparks");
    this.name = make("h3"); this.badge = make("span", "badge"); this.kind = make("span", "quiet");
    title.append(this.name, this.badge, this.kind);
    this.says = make("p", "says"); this.advice = make("p", "advice");
    this.meter = draw("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img" });
    for (const kind of ["track", "opening", "fill"]) this.meter.append(draw("rect", { class: kind, width: kind === "track" ? 100 : 0, height: 6, rx: 1 }));
    this.used = make("span");
    use.append(this.meter, this.used);
    this.charts = ["In use", "Waiting", "Wait p99", "Per second"].map((name) => {
      const spark = make("div", "spark"), label = make("span", "name", name + " "), value = make("b");
      label.append(value);
      const svg = chart();
      spark.append(label, svg);
      sparks.append(spark);
      return { name, value, svg };
    });
    this.details = make("details");
    this.holders = make("div"); this.facts = make("div");
    this.details.append(make("summary", "", "Connections and who holds them"), this.holders, this.facts);
    this.details.addEventListener("toggle", () => this.draw());
    card.append(title, this.says, this.advice, use, sparks, this.details);
    this.element = card;
  }
  draw() {
    if (!this.element) this.build();
    const pool = this.pool, c = pool.connections, level = pool.says.level;
    if (this.element.className !== "pool " + level) this.element.className = "pool " + level;
    say(this.name, pool.pool);
    say(this.badge, BADGES[level] || level);
    say(this.kind, `${pool.protocol}, ${pool.mode}, at ${pool.upstream}`);
    say(this.says, pool.says.text);
    say(this.advice, pool.says.advice || "");
    const share = (value) => Math.min(100, 100 * value / Math.max(1, c.max)).toFixed(1);
    const [, opening, fill] = this.meter.children;
    fill.setAttribute("width", share(busy(pool)));
    opening.setAttribute("width", share(busy(pool) + c.connecting + c.idle));
    this.meter.setAttribute("aria-label", `${busy(pool)} of ${c.max} connections in use, ${c.idle} idle, ${c.connecting} being opened`);
    say(this.used, `${busy(pool)} / ${c.max}`);
    const { inUse, waiting, p99, rate } = this.past;
    const all = [[inUse, count, c.max], [waiting, count], [p99, time], [rate, count]];
    this.charts.forEach(({ name, value, svg }, i) => {
      const [values, shownAs, limit] = all[i];
      say(value, shownAs(values[values.length - 1]));
      plot(svg, `${pool.pool}: ${name}`, values, shownAs, limit);
    });
    if (!this.details.open) return;
    table(this.holders, [["Held for longest by", ""], ["for", "n"], ["state", ""], ["client", "wide"], ["server process", "n wide"]],
      pool.longest.map((one) => [one.application_name || one.user, time(one.seconds), one.pinned ? "pinned: " + one.pinned : one.idle_in_transaction ? "idle in transaction" : "active", one.client, one.server_pid || "–"]),
      "Nobody holds a connection, or it is not known who.");
    const facts = [["Connections", `${c.idle} idle, ${c.leased} in use, ${c.connecting} opening, ${c.resetting + c.probing} being cleaned or asked, ${c.closing} closing`],
      ["Limits", `${c.max} at most, ${c.reserve} in reserve, ${c.min} kept open, room on the server for ${c.room}`],
      ["Clients", Object.entries(pool.clients).map(([state, number]) => `${number} ${state}`).join(", ")],
      ["Queue", `${pool.waiters} of ${pool.queue_limit}, oldest ${time(pool.oldest_wait_seconds)}`],
      ["Wait since the start", `half within ${time(pool.wait_p50_seconds)}, 99 % within ${time(pool.wait_p99_seconds)}`],
      ["Every connection in use", `for ${time(pool.saturated_seconds)} in all, with clients waiting`],
      ["Refused", nonzero(pool.refusals)], ["Opened", nonzero(pool.connects)]];
    if (pool.redis) facts.push(["Leases", nonzero(pool.redis.leases)]);
    table(this.facts, [["", ""], ["", ""]], facts, "");
  }
}
function nonzero(counts) {
  const some = Object.entries(counts).filter(([, number]) => number > 0).map(([name, number]) => `${words(name)} ${count(number)}`);
  return some.length ? some.join(", ") : "none";
}

function take(document) {
  const gap = before && document.uptime_seconds >= before.uptime_seconds ? document.unix_seconds - before.unix_seconds : 0;
  if (before && gap <= 0) { pools.clear(); recent = []; for (const key of Object.keys(total)) total[key] = []; }
  const bounds = document.wait_bounds_seconds, present = new Set();
  for (const pool of document.pools) {
    present.add(pool.pool);
    if (!pools.has(pool.pool)) pools.set(pool.pool, new Card());
    pools.get(pool.pool).note(pool, bounds, gap);
  }
  for (const name of pools.keys()) if (!present.has(name)) pools.delete(name);
  const all = document.pools, waits = bounds.concat(0).map((_, i) => sum(all.map((pool) => pool.wait_counts[i])));
  recent.push(waits);
  if (recent.length > RECENT) recent.shift();
  keep(total.inUse, sum(all.map(busy)));
  keep(total.waiting, sum(all.map((pool) => pool.waiters)));
  keep(total.p99, quantile(bounds, since(waits, recent[0]), 0.99));
  keep(total.clients, sum(document.listeners.map((listener) => listener.clients)));
  const rates = [...pools.values()].map((card) => card.rate);
  keep(total.rate, rates.some((rate) => rate !== null) ? sum(rates) : null);
  keep(total.refused, gap ? Math.max(0, sum(all.map(refused)) - sum(before.pools.map(refused))) / gap : null);
  document.gap = gap;
  document.before = before;
  before = document;
  before.before && (before.before.before = null);
}

function last(list) { return list[list.length - 1]; }
function show() {
  const now = before;
  if (!now) return;
  say(at("about"), `${now.version}, up ${time(now.uptime_seconds)}, ${now.workers.length} ${now.workers.length === 1 ? "worker" : "workers"}`);
  const cards = [...pools.values()].sort((a, b) => LEVELS[b.pool.says.level] - LEVELS[a.pool.says.level] || b.pool.waiters - a.pool.waiters
    || a.pool.shared - b.pool.shared || b.pool.utilization - a.pool.utilization || (a.pool.pool < b.pool.pool ? -1 : 1));
  const worst = cards.filter((card) => LEVELS[card.pool.says.level] >= LEVELS.paused);
  const bad = now.says.filter((one) => LEVELS[one.level] >= LEVELS.paused).length;
  let summary = cards.length ? "All is well." : "No pool yet: nobody has connected.";
  if (worst.length === 1) summary = `Pool ${worst[0].pool.pool}: ${worst[0].pool.says.text}`;
  else if (worst.length > 1) summary = `${worst.length} of ${cards.length} pools need a look, first of all ${worst[0].pool.pool}.`;
  else if (bad > 0) summary = "The pools are well; the process has something to say.";
  say(at("summary"), summary);
  const notices = at("notices");
  const told = now.says.slice(0, NOTICES), untold = now.says.length - told.length;
  if (untold > 0) told.push({ level: told[told.length - 1].level, text: `${untold} more like these or milder; /statusz has them all` });
  notices.replaceChildren(...told.map((one) => {
    const item = make("li", one.level);
    item.append(make("b", "", (BADGES[one.level] || "") + ": "), one.text);
    if (one.advice) item.append(make("div", "advice", one.advice));
    return item;
  }));
  const most = sum(now.pools.map((pool) => pool.connections.max));
  tiles.inUse(count(last(total.inUse)), `of ${count(most)}`, total.inUse, count, most);
  tiles.waiting(count(last(total.waiting)), "", total.waiting, count);
  tiles.p99(time(last(total.p99)), "", total.p99, time);
  tiles.rate(count(last(total.rate)), "/s", total.rate, count);
  tiles.clients(count(last(total.clients)), "", total.clients, count);
  tiles.refused(count(last(total.refused)), "/s", total.refused, count);
  list(cards);
  rest(now);
}

function list(cards) {
  const wanted = at("filter").value.trim().toLowerCase();
  const matches = cards.filter(({ pool }) => !wanted || [pool.pool, pool.database, pool.user, pool.upstream, pool.protocol, pool.says.level].some((text) => text.toLowerCase().includes(wanted)));
  const some = matches.slice(0, shown), place = at("list");
  some.forEach((card) => card.draw());
  // Who reads or types in a card keeps it where it is.
  const order = some.map((card) => card.element);
  const same = order.length === place.children.length && order.every((element, i) => element === place.children[i]);
  if (!same && !(place.contains(document.activeElement) && order.includes(document.activeElement.closest(".pool")))) place.replaceChildren(...order);
  say(at("counted"), `${matches.length === cards.length ? "" : `${matches.length} of `}${cards.length} ${cards.length === 1 ? "pool" : "pools"}, worst first` + (matches.length > some.length ? `; ${some.length} shown` + (shown >= MOST ? ", the filter finds the others" : "") : ""));
  at("more").hidden = matches.length <= some.length || shown >= MOST;
}

function rest(now) {
  const old = (kind, one) => now.gap && now.before ? now.before[kind].find((other) => other.name === one.name && other.protocol === one.protocol) : null;
  const rate = (kind, one, field) => { const then = old(kind, one); return then ? count(Math.max(0, one[field] - then[field]) / now.gap) : "–"; };
  for (const kind of ["databases", "users"]) {
    table(kind, [["Name", ""], ["waiting", "n"], ["in use", "n"], ["clients", "n wide"], ["transactions/s", "n wide"], ["queries/s", "n"]],
      now[kind].slice(0, 15).map((one) => [one.protocol === "redis" ? `${one.name} (redis)` : one.name, count(one.waiting), count(one.in_use), count(one.clients), one.protocol === "redis" ? "–" : rate(kind, one, "transactions"), rate(kind, one, "queries")]), "None yet.");
  }
  const redis = now.pools.filter((pool) => pool.redis && (pool.shared || pool.redis.leased || pool.redis.blocking_waiting));
  table("lanes", [["Pool", ""], ["shared", "n"], ["leased", "n"], ["in flight", "n"], ["blocked", "n"], ["per write", "n wide"]],
    redis.slice(0, 15).map(({ pool, redis }) => [pool, redis.shared, redis.leased, redis.in_flight, redis.blocking_waiting, redis.lane_writes ? (redis.lane_commands / redis.lane_writes).toFixed(1) : "–"]), "No Redis server is used.");
  const pinned = now.pools.filter((pool) => pool.pinned && pool.pinned.connections > 0);
  table("pins", [["Pool", ""], ["pinned", "n"], ["why", ""]],
    pinned.slice(0, 15).map((pool) => [pool.pool, `${pool.pinned.connections} of ${pool.pinned.max}`, nonzero(pool.pinned.reasons)]), "Nobody keeps a connection past a transaction.");
  const refusing = now.pools.filter((pool) => refused(pool) > 0).map((pool) => [pool.pool, count(refused(pool)), nonzero(pool.refusals)]);
  for (const listener of now.listeners) {
    const reasons = { max_client_conn: listener.refused, open_files: listener.refused_for_files, memory: listener.refused_for_memory };
    if (sum(Object.values(reasons)) > 0) refusing.unshift([`listener ${listener.listener}`, count(sum(Object.values(reasons))), nonzero(reasons)]);
  }
  for (const [protocol, results] of Object.entries(now.logins)) {
    const failed = Object.fromEntries(Object.entries(results).filter(([result]) => result !== "ok"));
    if (sum(Object.values(failed)) > 0) refusing.push([`logins, ${protocol}`, count(sum(Object.values(failed))), nonzero(failed)]);
  }
  table("refusals", [["Where", ""], ["since the start", "n"], ["why", ""]], refusing.slice(0, 20), "Nobody was refused.");
  table("listeners", [["Listener", ""], ["clients", "n"], ["at most", "n"], ["accepted", "n wide"]],
    now.listeners.map((one) => [one.listener, count(one.clients), count(one.most), count(one.accepted)]), "None.");
  table("hosts", [["Host", ""], ["works", "n"], ["on probation", "n"], ["left alone", "n"], ["opened", "n wide"]],
    now.hosts.slice(0, 30).map((one) => [one.host, one.addresses.closed, one.addresses.half_open, one.addresses.open, count(one.opened)]), "None yet.");
  const config = now.config, process = now.process, memory = now.memory;
  const cpu = now.gap && now.before ? `${(100 * (process.cpu_seconds - now.before.process.cpu_seconds) / now.gap).toFixed(0)} %` : "–";
  table("process", [["", ""], ["", ""]], [
    ["Configuration", config.last_reload_successful ? "in force" : "BROKEN, the old one stays: " + config.problems.join("; ")],
    ["Its hash", config.hash], ["Restart pending", config.restart_pending.join(", ") || "nothing"],
    ["Last put into force", time(Math.max(0, now.unix_seconds - config.last_success_unix_seconds)) + " ago"],
    ["CPU", cpu], ["Memory", bytes(process.resident_bytes) + (memory ? `, ${bytes(memory.used_bytes)} of ${bytes(memory.limit_bytes)}` : "")],
    ["Files", `${count(process.open_files)} of ${count(process.max_files)}`],
    ["Shared limits", now.limits.slice(0, 12).map((one) => `${one.setting} of ${one.of}: ${one.used} of ${one.max}`).join("; ") || "none"],
    ["State", now.draining ? "draining" : now.started ? "serving" : "starting"],
  ], "");
}

function pulse() {
  const ago = answered ? Math.round((Date.now() - answered) / 1000) : null, lost = !held && (ago === null || ago * 1000 > EVERY + 3000) && failed;
  at("live").className = "live" + (lost ? " off" : held ? " held" : "");
  say(at("live"), held ? "held" : lost ? "no answer" : before ? "live" : "connecting…");
  at("lost").hidden = !lost;
  for (const part of document.querySelectorAll("main > section, main > div")) part.classList.toggle("stale", Boolean(lost));
  if (lost) say(at("lost"), ago === null ? "sidepool does not answer." : `sidepool has not answered for ${time(ago)}: what you see is what it said at ${new Date(answered).toLocaleTimeString()}.`);
}
async function ask() {
  const gone = new AbortController(), alarm = setTimeout(() => gone.abort(), PATIENCE);
  try {
    const answer = await fetch("statusz?compact", { signal: gone.signal, cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    take(await answer.json());
    answered = Date.now();
    failed = false;
    show();
    document.body.dataset.polls = String(Number(document.body.dataset.polls || 0) + 1);
  } catch (_) { failed = true; }
  clearTimeout(alarm);
  pulse();
}
async function round() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  if (!held && !document.hidden) await ask();
  asking = false;
  pulse();
  clearTimeout(timer);
  timer = setTimeout(round, EVERY);
}
at("filter").addEventListener("input", () => { shown = PAGE; show(); });
at("more").addEventListener("click", () => { shown = Math.min(shown + PAGE, MOST); show(); });
at("pause").addEventListener("click", () => {
  held = !held;
  at("pause").setAttribute("aria-pressed", String(held));
  say(at("pause"), held ? "Go on" : "Pause");
  if (!held) round(); else pulse();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) round(); });
round();
