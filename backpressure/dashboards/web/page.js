// The live page: draws what the monitor streams. Text from other processes is set as text, never as HTML.

import { Charts, clockTicks } from "/assets/charts.js";
import { element, make, put, putText, switchTheme } from "/assets/elements.js";
import { FlowPicture, flowOf, flowing } from "/assets/flow.js";
import { UNKNOWN, amount, binaryBytes, duration, percent, rate } from "/assets/numbers.js";

const KEPT_MS = 15 * 60 * 1000;
const CHARTS_EVERY_MS = 1500; // the lines; their latest values are in the legends each second
const OLD_S = 2; // a queue of the loop is read at least every second: say so when the count is older
let points = [];
let askedFor = false; // whether the user named the queues

function thresholdMood(now, name) {
  const threshold = now.thresholds.find((item) => item.name === name);
  if (!threshold || threshold.value === null) return "";
  return threshold.breached ? "bad" : threshold.value > threshold.limit / 2 ? "warn" : "good";
}

const age = (queue) => (queue.watched && queue.age_s > OLD_S ? `, ${duration(queue.age_s)} ago` : "");

// JSON has no infinity: a wait that is not known, of a queue that holds messages and that none leaves, has no end.
const endless = (queue) => queue.outlook.wait_s === null && queue.acked_per_s === 0 && queue.depth > 0;
const atLeast = (outlook) => (outlook.hidden && outlook.wait_s !== null ? "≥ " : ""); // automatic ack: not all is counted
const expectedWait = (queue) => (endless(queue) ? "∞" : atLeast(queue.outlook) + duration(queue.outlook.wait_s));
const late = (outlook) => (outlook.statistics_age_s === null ? "" : `; statistics up to ${duration(outlook.statistics_age_s)} old`);

function clockAfter(seconds) {
  if (seconds >= 86400) return `${Math.round(seconds / 86400)} d`;
  return new Date(Date.now() + seconds * 1000).toLocaleTimeString([], { hourCycle: "h23", hour: "2-digit", minute: "2-digit" });
}

function heading({ growth_per_s: growth, full_in_s: full, empty_in_s: empty }) {
  if (growth === null) return `growth ${UNKNOWN}`;
  if (growth === 0) return "steady";
  const text = growth > 0 ? `grows by ${rate(growth)}` : `shrinks by ${rate(-growth)}`;
  const end = (what, seconds) => (seconds === null ? "" : `, ${what} in ${duration(seconds)} (${clockAfter(seconds)})`);
  return text + end("full", full) + end("empty", empty);
}

function terms(now, name) {
  const counts = new Map();
  for (const { queue, prefetch, ack_required: manual } of now.broker?.consumers ?? []) {
    if (queue !== name) continue;
    const term = manual ? `${prefetch ? `prefetch ${amount(prefetch)}` : "no prefetch limit"}, manual ack` : "automatic ack";
    counts.set(term, (counts.get(term) ?? 0) + 1);
  }
  return [...counts].map(([term, count]) => `${count} with ${term}`).join("; ");
}

const brokerOf = (now) => now.sources.find((source) => source.name === "broker");

const share = (producer) => producer.pacing_rate_per_s / Math.max(producer.target_rate_per_s, 1e-9);
const heldBackMost = (producers) => producers.reduce((a, b) => (a && share(a) <= share(b) ? a : b), null);

function showTiles(now) {
  const work = now.queues[now.work_queue];
  const { rates, totals } = now;
  put("depth", work ? (work.unacked === null ? "≥ " : "") + amount(work.depth) : UNKNOWN, thresholdMood(now, "depth"));
  put("depth-parts", work ? `${amount(work.ready)} ready, ${amount(work.unacked)} unacked${age(work)}` : brokerOf(now).ok ? `no ${now.work_queue} yet` : "the broker does not answer");
  const [coming, going] = flowing(now);
  put("in", rate(coming));
  put("offered", `of ${rate(rates.offered_per_s)} offered`);
  put("out", rate(going));
  put("bottleneck", `of ${rate(now.bottleneck_per_s)} possible`);
  if (now.queue_wait.p99_s === null && work?.outlook) { // nobody reports waits: backlog ÷ rate out
    put("wait", expectedWait(work));
    put("wait-parts", `expected; ${heading(work.outlook)}${late(work.outlook)}`);
  } else {
    put("wait", duration(now.queue_wait.p99_s), thresholdMood(now, "queue wait p99"));
    put("wait-parts", `p50 ${duration(now.queue_wait.p50_s)}, p95 ${duration(now.queue_wait.p95_s)}`);
  }
  const producer = heldBackMost(now.producers);
  put("allowed", rate(now.pacing_rate_per_s));
  const several = new Set(now.producers.map((each) => each.queue)).size > 1;
  put("law", producer ? `${producer.strategy}${several ? ` of ${producer.queue}` : ""}: ${producer.reason}` : "no producer");
  const given_up = totals.rejected + totals.dead_lettered;
  const trouble = given_up + totals.nacked + totals.returned;
  put("trouble", amount(given_up), given_up ? "bad" : trouble ? "warn" : "good");
  put("trouble-parts", `${amount(totals.rejected)} rejected, ${amount(totals.dead_lettered)} dead-lettered, ${amount(totals.nacked)} nacks, ${amount(totals.returned)} returned`);
}

function showOverall({ queues, active, consumers, connections, ready, unacked }) {
  const facts = { queues, active, consumers, connections, ready, unacked };
  put("overall", Object.entries(facts).map(([name, value]) => `${name} ${amount(value)}`).join(" · "), "quiet");
}

function showState(now) {
  const broker = brokerOf(now);
  put("state", broker.ok ? "live" : `${broker.refused ? "refused" : "waiting"}: ${broker.error}`, `pill ${broker.ok ? "good" : "bad"}`);
  const product = now.broker ? ` · ${now.broker.product} ${now.broker.version}` : "";
  const memory = now.broker?.memory_percent == null ? "" : ` · memory ${percent(now.broker.memory_percent / 100)} of its limit`;
  put("address", now.address + product + memory);
}

let advised = "";

function showAdvice(advice) {
  if (advised === advice.join("\n")) return;
  advised = advice.join("\n");
  element("advice").hidden = advice.length === 0;
  element("advice").replaceChildren(...advice.map((sentence) => make("p", { textContent: `→ ${sentence}` })));
}

const BAD = new Set(["nacked", "blocked", "breached", "vanished", "source_lost"]);
const GOOD = new Set(["unblocked", "recovered", "nacks_over", "source_back"]);
const mood = (kind) => (BAD.has(kind) ? "bad" : GOOD.has(kind) ? "good" : "");

let newest = ""; // the events are listed again only when there are others

function showEvents(events) {
  const last = events[events.length - 1];
  if (!last || newest === `${last.at_ns} ${last.text}`) return;
  newest = `${last.at_ns} ${last.text}`;
  element("events").replaceChildren(...events.slice().reverse().map((event) => {
    const item = document.createElement("li");
    item.className = mood(event.kind);
    const time = Object.assign(document.createElement("time"), { textContent: new Date(event.at_ns / 1e6).toLocaleTimeString([], { hourCycle: "h23" }) });
    item.append(time, event.text);
    return item;
  }));
}

// Cells that say the same as before stay as they are, so that they are not laid out again.
function showTable(id, columns, rows) {
  const table = element(id);
  const texts = [columns.map(([heading]) => heading), ...rows];
  if (table.rows.length !== texts.length || table.rows[0].cells.length !== columns.length) {
    table.replaceChildren(...texts.map((_, index) => make("tr", {},
      ...columns.map(([, className = ""]) => make(index ? "td" : "th", { className })))));
  }
  texts.forEach((cells, index) => {
    const row = table.rows[index].cells;
    cells.forEach((text, column) => putText(row[column], String(text)));
  });
}

function showTables(now) {
  const queues = Object.values(now.queues).filter((queue) => !now.asked.length || now.asked.includes(queue.name));
  const ahead = now.asked.length > 0; // queues that the user asked for, whoever uses them
  const partitioned = queues.some((queue) => queue.lag_by_partition.length > 1); // on Kafka alone
  const worst = ({ worst_partition: number, lag_by_partition: lags }) => (number === null ? "" : `#${number} ${amount(lags[number])}`);
  showTable("queues",
    [["queue"], ["depth"], ...(partitioned ? [["worst partition"]] : []), ["ready"], ["unacked"], ["consumers"], ["published"], ["delivered"], ["acked"], ...(ahead ? [["expected wait"], ["heading", "name"], ["consumers' terms", "name"]] : [])],
    queues.map((queue) => [
      queue.name, amount(queue.depth) + age(queue), ...(partitioned ? [worst(queue)] : []), amount(queue.ready), amount(queue.unacked), amount(queue.consumers),
      rate(queue.published_per_s), rate(queue.delivered_per_s), rate(queue.acked_per_s),
      ...(ahead ? (queue.outlook ? [expectedWait(queue), heading(queue.outlook) + late(queue.outlook)] : [UNKNOWN, UNKNOWN]) : []),
      ...(ahead ? [terms(now, queue.name)] : []),
    ]));
  const several = new Set(now.processes.map((process) => process.queue)).size > 1;
  showTable("processes", [["role"], ["id", "name"], ...(several ? [["queue", "name"]] : []), ["pid"], ["rate"], ["memory"], ["CPU"], ["last report"]],
    now.processes.map((process) => [
      process.role, process.id, ...(several ? [process.queue] : []), process.pid, rate(process.rate_per_s), binaryBytes(process.rss_bytes),
      percent(process.cpu_share), `${duration(process.age_s)} ago`,
    ]));
}

// Controls: one form for each process, kept from tick to tick, so that typed text is not lost.

let laws = [];
let learnt = new Map();
const forms = new Map();
const nobody = make("p", { className: "quiet", textContent: "no producer or consumer" });
const LOOK_AGAIN_MS = 5000;
const keyOf = (role, report) => JSON.stringify([role, report.id, report.pid, report.host]);

async function ask(process, action, body) {
  const path = `/api/control/${process.role}/${encodeURIComponent(process.id)}/${action}?pid=${process.pid}`;
  const said = `${process.id}: ${action} ${body === undefined ? "" : JSON.stringify(body)}`;
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: body === undefined ? undefined : JSON.stringify(body),
    });
    const { detail } = await answer.json();
    const reason = typeof detail === "string" ? detail : (detail ?? []).map((problem) => problem.msg).join("; ");
    put("answer", answer.ok ? `${said} – done` : `${said} – ${reason || answer.status}`, answer.ok ? "good" : "bad");
  } catch {
    put("answer", `${said} – the monitor does not answer`, "bad");
  }
}

function choice(label, act) {
  const select = make("select");
  select.addEventListener("change", async () => {
    select.dataset.asked = select.value; // until it is done the process reports the old value
    await act(select.value);
    await learn();
    delete select.dataset.asked;
  });
  return make("label", {}, label, select);
}

// Show the current value, whoever changed it, unless the user is choosing one now.
function showChoice(select, options, value) {
  if (select.dataset.asked || document.activeElement === select) return;
  const offered = options.some(([known]) => known === value) ? options : [[value, value], ...options];
  if (offered.map(([known]) => known).join() !== [...select.options].map((option) => option.value).join()) {
    select.replaceChildren(...offered.map(([known, text]) => make("option", { value: known, textContent: text })));
  }
  select.value = value;
}

const SLOWER = [["1", "as long as set"], ["2", "2 ×"], ["5", "5 ×"], ["10", "10 ×"], ["50", "50 ×"]];

function formOf(process, report) {
  const rate = make("input", { type: "number", min: "0", step: "any", required: true, value: report.target_rate_per_s || report.capacity_per_s || "" });
  const pause = make("button", { type: "button" });
  const fields = make("fieldset", {}, pause, make("label", {}, "rate, msg/s", rate), make("button", { textContent: "set rate" }));
  const form = make("form", {}, make("strong", { textContent: `${process.role} ${process.id} (${process.pid})` }), fields, make("small"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(process, "config", { [process.role === "producer" ? "production_rate" : "rate"]: Number(rate.value) }).then(learn);
  });
  pause.addEventListener("click", () => ask(process, pause.value));
  if (process.role === "producer") {
    fields.append(choice("law", (law) => ask(process, "config", { settings: { "producer.strategy": law } })));
  } else {
    fields.append(choice("work takes", (factor) => ask(process, "slow-down", { factor: Number(factor) })));
  }
  return form;
}

function showControls(now) {
  const live = [...now.producers.map((report) => ["producer", report]), ...now.consumers.map((report) => ["consumer", report])];
  const keys = new Set();
  for (const [role, report] of live) {
    const key = keyOf(role, report);
    keys.add(key);
    if (!forms.has(key)) {
      forms.set(key, formOf({ role, id: report.id, pid: report.pid }, report));
      learn();
    }
    const form = forms.get(key);
    const paused = report.paused ?? report.target_rate_per_s === 0;
    const [pause] = form.getElementsByTagName("button");
    pause.value = paused ? "resume" : "pause";
    putText(pause, paused ? "Resume" : "Pause");
    const { obstacle, slow_down_factor: factor } = learnt.get(key) ?? { obstacle: "looking for its control API" };
    const [select] = form.getElementsByTagName("select");
    if (role === "producer") showChoice(select, laws.map((law) => [law, law]), report.strategy);
    else showChoice(select, SLOWER, String(factor ?? 1));
    const [fields] = form.getElementsByTagName("fieldset");
    fields.disabled = obstacle !== "";
    form.title = obstacle && `Not controlled from here: ${obstacle}.`;
    putText(form.lastElementChild, form.title);
  }
  for (const key of forms.keys()) if (!keys.has(key)) forms.delete(key);
  const place = element("controls");
  const wanted = forms.size ? [...forms.values()] : [nobody];
  for (const shown of [...place.children]) if (!wanted.includes(shown)) shown.remove();
  for (const form of wanted) if (form.parentNode !== place) place.append(form); // what stays keeps the focus
}

async function learn() {
  const answer = await fetch("/api/control").catch(() => null);
  if (!answer?.ok) return;
  const { laws: known, processes } = await answer.json();
  laws = known;
  learnt = new Map(processes.map((process) => [keyOf(process.role, process), process]));
}

// The charts: a point a second, events as marks in all of them.

const clockFormat = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const clock = (ms) => clockFormat.format(ms);
const flow = new FlowPicture(element("flow"));
const charts = new Charts({ time: clock, ticks: clockTicks, bar: element("cursor"), restMs: CHARTS_EVERY_MS });
const drawn = {
  rates: charts.add(element("chart-rates"), { label: "Rates", format: rate, scale: "auto" }),
  depth: charts.add(element("chart-depth"), { label: "Queue depth", scale: "auto" }),
  wait: charts.add(element("chart-wait"), { label: "Queue wait", format: duration, scale: "auto" }),
  memory: charts.add(element("chart-memory"), { label: "Memory", format: binaryBytes, unit: 2 ** 20 }),
};
let marks = [];

function draw() {
  if (document.hidden || !points.length) return;
  const t = points.map((point) => point.at_ms);
  const line = (name, key, extra = {}) => ({ name, t, y: points.map((point) => point[key] ?? null), ...extra });
  const latest = points[points.length - 1];
  const reported = !askedFor && (latest.processed_per_s !== null || latest.published_per_s !== null);
  const sides = reported ? [line("published", "published_per_s"), line("processed", "processed_per_s", { width: 2.2 })] : [line("in", "in_per_s"), line("out", "out_per_s")];
  const names = [...new Set(points.flatMap((point) => Object.keys(point.memory_bytes)))];
  const memory = names.map((name) => ({ // processes that are gone have left the legend
    name, t, y: points.map((point) => point.memory_bytes[name] ?? null), quiet: !(name in latest.memory_bytes),
  }));
  charts.show({ from: Math.min(t[0], latest.at_ms - 60_000), to: latest.at_ms, marks: marks.filter((mark) => mark.t >= t[0]) }, new Map([
    [drawn.rates, [line("offered", "offered_per_s", { dash: true }), line("capacity", "bottleneck_per_s", { width: 4, alpha: 0.35 }), line("allowed", "allowed_per_s", { width: 1.2 }), ...sides]],
    [drawn.depth, [line("ready", "ready"), line("unacked", "unacked")]],
    [drawn.wait, [line("p50", "wait_p50_s"), line("p95", "wait_p95_s"), line("p99", "wait_p99_s"), line("expected", "expected_wait_s", { dash: true })]],
    [drawn.memory, memory],
  ]));
}

function keep(point) {
  points.push(point);
  while (points[0].at_ms < point.at_ms - KEPT_MS) points.shift();
}

function listen() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("history", (event) => {
    points = JSON.parse(event.data);
    draw();
  });
  stream.addEventListener("tick", (event) => {
    const { point, now, advice } = JSON.parse(event.data);
    keep(point);
    askedFor = now.asked.length > 0;
    showState(now);
    showOverall(now.overall);
    showTiles(now);
    showAdvice(advice);
    flow.show(flowOf(now));
    marks = now.events.map((event) => ({ t: event.at_ns / 1e6, text: event.text, mood: mood(event.kind) }));
    showEvents(now.events);
    showTables(now);
    showControls(now);
    draw();
  });
  stream.onerror = () => {
    put("state", "the monitor does not answer; trying again", "pill bad");
    flow.show(null);
  };
}

switchTheme(element("theme"));
document.addEventListener("visibilitychange", draw);
setInterval(() => document.hidden || learn(), LOOK_AGAIN_MS);
learn().finally(listen);
