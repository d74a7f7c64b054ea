// The classroom: moves virtual time, shows it, and lets people change it. The model is in plant.js.

import { Charts } from "./charts.js";
import { element, make, put, switchTheme } from "./elements.js";
import { FlowPicture } from "./flow.js";
import { FREE, LESSONS } from "./lessons.js";
import { LAWS } from "./laws.js";
import { UNKNOWN, amount, binaryBytes, duration, percent, rate } from "./numbers.js";
import { Plant } from "./plant.js";

const SHOWN_S = 120;
const SHOW_EVERY_MS = 200;
const RATE_OVER_S = 1;
const WAIT_OVER_S = 2;
const LONGEST_FRAME_S = 0.1;
const MEMORY_BYTES = 200 * 2 ** 20; // of the broker for messages: from then on it blocks publishers, until a tenth is free again
const FREE_AGAIN = 0.9;
const MOST_DEEP = 1_000_000;
const BURST = 1000;
const WASTED = 0.02; // laws that use less than the best by this are not compared by their wait
const SPEEDS = [1, 4, 16, 60];

// --- the knobs ----------------------------------------------------------------------------------------------------------

// A slider over values that matter; each key press is one of them.
const scale = (label, values, format) => ({
  label, format, values,
  stepOf: (value) => values.reduce((best, known, step) => (distance(known, value) < distance(values[best], value) ? step : best), 0),
});
const distance = (a, b) => (a === b ? 0 : a === null || b === null ? Infinity : Math.abs(Math.log(a / b)));
const decades = (steps, ...powers) => powers.flatMap((power) => steps.map((step) => Math.round(step * power * 10) / 10));
const RATES = [...decades([1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 9.5], 1, 10, 100, 1000).filter((value) => value <= 5000)];
const KNOBS = {
  demandPerS: scale("offered", [...RATES, 10, 100, 1000].sort((a, b) => a - b).filter((value, n, all) => value !== all[n - 1]), rate),
  limitPerS: scale("rate limit", RATES, rate),
  messageBytes: scale("message size", decades([1, 2, 5], 100, 1000, 10_000, 100_000).concat(1_000_000), binaryBytes),
  maxLength: scale("bound", [...decades([1, 2, 3, 5], 1, 10, 100, 1000), 10_000, null], (value) => (value === null ? "none" : amount(value))),
  workMs: scale("work takes", decades([1, 1.5, 2, 2.5, 3, 4, 5, 6, 8], 1, 10, 100).concat(1000, 1500, 2000), (value) => duration(value / 1000)),
  consumers: scale("consumers", Array.from({ length: 20 }, (_, n) => n + 1), String),
  prefetch: scale("prefetch", decades([1, 2, 3, 5], 1, 10, 100), String),
  law: { label: "law", choices: Object.fromEntries(Object.keys(LAWS).map((name) => [name, name])) },
  overflow: { label: "when full", choices: { "reject-publish": "refuse new ones", "drop-head": "drop the oldest" } },
  distribution: { label: "work is", choices: { fixed: "always as long", uniform: "uneven (± half)", exponential: "random (exponential)" } },
};

function buildKnobs() {
  for (const [name, knob] of Object.entries(KNOBS)) {
    const place = document.querySelector(`[data-knob="${name}"]`);
    const id = `knob-${name}`;
    const label = make("label", { htmlFor: id, textContent: knob.label });
    if (knob.choices) {
      knob.input = make("select", { id }, ...Object.entries(knob.choices).map(([value, textContent]) => make("option", { value, textContent })));
      knob.input.addEventListener("change", () => change({ [name]: knob.input.value }));
    } else {
      knob.input = make("input", { id, type: "range", min: 0, max: knob.values.length - 1, step: 1 });
      knob.output = make("output", { htmlFor: id });
      knob.input.addEventListener("input", () => change({ [name]: knob.values[Number(knob.input.value)] }));
    }
    place.className = "knob";
    place.append(label, knob.input, ...(knob.output ? [knob.output] : []));
  }
}

function showKnobs() {
  for (const [name, knob] of Object.entries(KNOBS)) {
    const value = wanted[name];
    if (knob.choices) {
      knob.input.value = value;
    } else {
      knob.input.value = knob.stepOf(value);
      knob.output.textContent = knob.format(value);
      knob.input.setAttribute("aria-valuetext", knob.format(value));
    }
  }
  document.querySelector('[data-knob="limitPerS"]').hidden = wanted.law !== "rate_limited";
  document.querySelector('[data-knob="overflow"]').hidden = wanted.maxLength === null;
  element("pause").textContent = wanted.paused ? "Let the consumers return" : "Stop the consumers";
}

// --- the model, and the story that is played with it ----------------------------------------------------------------------

let lesson = FREE;
let wanted = {}; // what the knobs say
let story = []; // { atS, changes, burst, said, toldAt, capacity, processed }: everything that was changed, and what was done by then
let plant = null;
let aimS = 0; // the time that was to pass; the model moves by whole steps
let tail = []; // the model's last samples
let points = [];
let running = true;
let speed = 1;
let later = []; // [atS, changes] of a step that undoes itself

const settingsOf = (knobs) => ({
  law: knobs.law, parameters: knobs.law === "rate_limited" ? { rate_per_s: knobs.limitPerS } : {}, demandPerS: knobs.demandPerS,
  consumers: knobs.consumers, ratePerS: 1000 / knobs.workMs, distribution: knobs.distribution, prefetch: knobs.prefetch,
  maxLength: knobs.maxLength, overflow: knobs.overflow, paused: knobs.paused,
});

function begin(knobs) {
  wanted = { ...knobs };
  story = [{ atS: 0, changes: { ...knobs }, burst: 0, said: "", toldAt: 0, capacity: 0, processed: 0 }];
  later = [];
  plant = new Plant(settingsOf(wanted));
  aimS = 0;
  tail = [];
  points = [];
  showKnobs();
  remember();
  show();
}

function change(changes, { burst = 0 } = {}) {
  const before = wanted;
  wanted = { ...wanted, ...changes };
  plant.change(settingsOf(wanted));
  if (burst) put("said", `${amount(plant.burst(burst))} of ${amount(burst)} messages were taken.`);
  const said = [...Object.keys(changes).filter((name) => before[name] !== wanted[name]).map(saidOf), ...(burst ? [`burst of ${amount(burst)}`] : [])];
  if (said.length) tell(changes, burst, said);
  showKnobs();
  remember();
  if (!running) show();
}

// Write a change into the story; a slider that is still being moved is one change.
function tell(changes, burst, said) {
  const last = story[story.length - 1];
  const toldAt = performance.now();
  const same = !burst && !last.burst && toldAt - last.toldAt < 1000 && Object.keys(last.changes).join() === Object.keys(changes).join();
  if (same) story.pop();
  const { capacity, queue: { processed } } = plant;
  story.push({ atS: same ? last.atS : plant.now, changes, burst, said: said.join(", "), toldAt, capacity, processed });
}

function saidOf(name) {
  if (name === "paused") return wanted.paused ? "consumers stop" : "consumers return";
  const knob = KNOBS[name];
  return `${knob.label} ${knob.choices ? knob.choices[wanted[name]] : knob.format(wanted[name])}`;
}

// Let time pass, and do on the way what is due.
function advance(durationS) {
  aimS += durationS;
  while (later.length && later[0][0] <= aimS) {
    const [atS, changes] = later.shift();
    move(plant, atS, wanted.messageBytes);
    change(changes);
  }
  move(plant, aimS, wanted.messageBytes);
}

// Run a model until then; a broker whose memory is full blocks its producers.
function move(model, untilS, messageBytes) {
  while (untilS - model.now > 1e-9) {
    const before = model.now;
    model.run(Math.min(0.1, untilS - model.now));
    const { blocked } = model.settings;
    const full = model.queue.depth * messageBytes > MEMORY_BYTES * (blocked ? FREE_AGAIN : 1);
    if (full !== blocked) model.change({ blocked: full });
    if (model.now === before) return; // less than a step is left
  }
}

// --- what is shown ----------------------------------------------------------------------------------------------------------

const flow = new FlowPicture(element("flow"));
const seconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} s`;
const charts = new Charts({ time: seconds, bar: element("cursor") });
const drawn = {
  rates: charts.add(element("chart-rates"), { label: "Rates", format: rate, scale: "auto" }),
  depth: charts.add(element("chart-depth"), { label: "Queue depth", scale: "auto" }),
  wait: charts.add(element("chart-wait"), { label: "Queue wait", format: duration, scale: "auto" }),
};

const quantile = (sorted, q) => (sorted.length ? sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] : null);

// Turn the model's new samples into points: rates over a second, waits over two.
function takeIn() {
  for (const now of plant.samples.splice(0)) {
    tail.push(now);
    if (tail.length > WAIT_OVER_S * 10) tail.shift();
    const before = tail[Math.max(0, tail.length - 1 - RATE_OVER_S * 10)];
    const spanS = now.atS - before.atS;
    const per = (...names) => (spanS > 0 ? names.reduce((sum, name) => sum + now[name] - before[name], 0) / spanS : null);
    const waits = tail.flatMap((sample) => sample.waits).sort((a, b) => a - b);
    points.push({
      t: now.atS, depth: now.depth, ready: now.ready, unacked: now.unacked, offered: now.demandPerS,
      published: per("sent"), allowed: Math.min(now.ratePerS, now.demandPerS), unlimited: now.ratePerS === Infinity,
      processed: per("processed"), capacity: now.capacityPerS, refused: per("nacked"), p50: quantile(waits, 0.5), p99: quantile(waits, 0.99),
      reason: now.reason,
    });
  }
  const oldest = points.findIndex((point) => point.t > plant.now - SHOWN_S);
  if (oldest > 0) points.splice(0, oldest);
}

function show() {
  takeIn();
  const now = points[points.length - 1];
  put("clock", `${seconds(plant.now)} of virtual time`, "pill");
  if (!now) return;
  showFlow(now);
  showTiles(now);
  const t = points.map((point) => point.t);
  const series = (...names) => names.map((name) => ({ name, t, y: points.map((point) => point[name]) }));
  const marks = story.filter((entry) => entry.said && entry.atS >= t[0]).map((entry) => ({ t: entry.atS, text: entry.said }));
  const bands = [];
  charts.show({ from: Math.max(0, plant.now - SHOWN_S), to: Math.max(plant.now, 20), marks, bands }, new Map([
    [drawn.rates, series("offered", "allowed", "published", "processed", "capacity")],
    [drawn.depth, series("depth", "ready")],
    [drawn.wait, series("p50", "p99")],
  ]));
}

function showFlow(now) {
  const { blocked } = plant.settings;
  flow.show({
    producers: { count: 1, blocked: blocked ? 1 : 0, paused: 0 },
    law: { name: wanted.law, reason: now.reason },
    offered_per_s: now.offered, allowed_per_s: now.unlimited ? null : now.allowed, published_per_s: now.published,
    refused_per_s: now.refused, returned_per_s: null, in_flight: null, exchange: "pace",
    queue: { name: "work.queue", ready: now.ready, unacked: now.unacked, bound: plant.bound.maxLength, overflow: wanted.overflow },
    wait_p50_s: now.p50, wait_p99_s: now.p99,
    consumers: { count: wanted.consumers, paused: wanted.paused ? wanted.consumers : 0 },
    capacity_per_s: now.capacity, processed_per_s: now.processed, dead_letters_per_s: null, dead_letters: null,
  });
}

function showTiles(now) {
  const { queue, producer } = plant;
  put("depth", amount(now.depth), now.depth > 10 * Math.max(1, now.capacity) ? "bad" : now.depth > Math.max(20, now.capacity) ? "warn" : "");
  put("depth-parts", `${amount(now.ready)} ready, ${amount(now.unacked)} with consumers`);
  put("wait", duration(now.p99), now.p99 > 5 ? "bad" : now.p99 > 0.5 ? "warn" : "");
  put("wait-parts", `p50 ${duration(now.p50)}; the work takes ${duration(wanted.workMs / 1000)}`);
  put("out", rate(now.processed));
  put("out-parts", `of ${rate(now.capacity)} possible`);
  const since = story[story.length - 1];
  const could = plant.capacity - since.capacity;
  const did = queue.processed - since.processed;
  put("used", could > 0.5 ? percent(Math.min(1, did / could)) : UNKNOWN);
  put("used-parts", "since the last change");
  const lost = producer.rejected + queue.dropped;
  put("lost", amount(lost), lost ? "bad" : "good");
  put("lost-parts", `${amount(producer.rejected)} refused, ${amount(queue.dropped)} dropped, ${amount(producer.nacked - producer.rejected)} refused and sent again`);
  const bytes = now.depth * wanted.messageBytes;
  put("memory", binaryBytes(bytes), plant.settings.blocked ? "bad" : bytes > MEMORY_BYTES / 2 ? "warn" : "");
  put("memory-parts", plant.settings.blocked ? "full: the broker blocks the producer" : `of ${binaryBytes(MEMORY_BYTES)}`);
}

// --- comparison -------------------------------------------------------------------------------------------------------------

function replayed(law) {
  const knobs = { ...story[0].changes, law };
  const twin = new Plant(settingsOf(knobs));
  for (const { atS, changes, burst } of story.slice(1)) {
    move(twin, atS, knobs.messageBytes);
    Object.assign(knobs, changes, { law });
    twin.change(settingsOf(knobs));
    if (burst) twin.burst(burst);
  }
  move(twin, plant.now, knobs.messageBytes);
  const waits = twin.samples.flatMap((sample) => sample.waits).sort((a, b) => a - b);
  const could = Math.min(twin.capacity, twin.producer.offered + 1e-9);
  return {
    law, used: could > 0 ? Math.min(1, twin.queue.processed / could) : null, p50: quantile(waits, 0.5), p99: quantile(waits, 0.99),
    depth: twin.samples.reduce((most, sample) => Math.max(most, sample.depth), 0), lost: twin.producer.rejected + twin.queue.dropped, left: twin.queue.depth,
  };
}

async function compare() {
  const button = element("compare");
  button.disabled = true;
  const rows = [];
  for (const law of Object.keys(LAWS)) {
    put("comparing", `${law} …`);
    await new Promise((resolve) => setTimeout(resolve, 20)); // the page stays alive between two laws
    rows.push(replayed(law));
  }
  const best = Math.max(...rows.map((row) => row.used ?? 0));
  const wasteful = (row) => ((row.used ?? 0) < best - WASTED ? 1 - (row.used ?? 0) : 0);
  rows.sort((a, b) => wasteful(a) - wasteful(b) || a.p99 - b.p99);
  const heads = ["law", "used", "wait p50", "wait p99", "deepest", "given up", "left in the queue"];
  const head = make("tr", {}, ...heads.map((textContent) => make("th", { scope: "col", textContent })));
  element("laws").replaceChildren(head, ...rows.map((row) => make("tr", { className: row.law === wanted.law ? "present" : "" },
    make("th", { scope: "row", textContent: row.law }),
    ...[percent(row.used), duration(row.p50), duration(row.p99), amount(row.depth), amount(row.lost), amount(row.left)].map((textContent) => make("td", { textContent })))));
  element("laws").hidden = false;
  const [first, second] = rows;
  put("comparing", `${first.law}: ${percent(first.used)} of what could be done at a p99 wait of ${duration(first.p99)}; next ${second.law}: ${percent(second.used)} at ${duration(second.p99)}.`);
  button.disabled = false;
}

// --- lessons, links, and the page's own buttons ---------------------------------------------------------------------------------

function choose(number) {
  lesson = LESSONS[number - 1] ?? FREE;
  element("lesson").value = String(LESSONS.indexOf(lesson) + 1);
  put("goal", lesson.goal);
  element("steps").replaceChildren(...lesson.steps.map((step) => {
    const button = make("button", { type: "button", textContent: step.text });
    button.addEventListener("click", () => {
      put("said", "");
      change(step.change ?? {}, { burst: step.burst });
      if (step.then) later.push([plant.now + step.then[0], step.then[1]]);
    });
    return make("li", {}, button, make("span", { textContent: step.look }));
  }));
  element("answer").hidden = !lesson.why;
  element("answer").open = false;
  put("why", lesson.why);
  put("said", "");
}

const NAMES = Object.keys(KNOBS);

function remember() {
  const parts = new URLSearchParams({ lesson: element("lesson").value });
  for (const name of NAMES) if (wanted[name] !== lesson.settings[name]) parts.set(name, wanted[name] ?? "none");
  element("link").href = `#${parts}`;
}

// What the part of the address behind # says: a lesson, and settings that differ from its own.
function fromAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  choose(Number(parts.get("lesson") ?? 0));
  const knobs = { ...lesson.settings };
  for (const [name, text] of parts) {
    const knob = KNOBS[name];
    if (!knob) continue;
    if (knob.choices) {
      if (text in knob.choices) knobs[name] = text;
    } else {
      const value = knob.none && text === "none" ? null : Number(text);
      if (value === null || value > 0) knobs[name] = value;
    }
  }
  begin(knobs);
}

function setRunning(on) {
  running = on;
  element("run").textContent = on ? "Pause" : "Continue";
}

buildKnobs();
element("lesson").append(...[FREE, ...LESSONS].map(({ title }, value) => make("option", { value, textContent: title })));
element("speed").append(...SPEEDS.map((value) => make("option", { value, textContent: `${value} ×` })));
element("speed").addEventListener("change", () => (speed = Number(element("speed").value)));
element("lesson").addEventListener("change", () => (location.hash = `lesson=${element("lesson").value}`));
element("run").addEventListener("click", () => setRunning(!running));
element("restart").addEventListener("click", () => {
  put("said", "");
  begin(lesson.settings);
});
element("burst").addEventListener("click", () => change({}, { burst: BURST }));
element("pause").addEventListener("click", () => change({ paused: !wanted.paused }));
element("compare").addEventListener("click", compare);
element("knobs").addEventListener("submit", (event) => event.preventDefault());
switchTheme(element("theme"));
addEventListener("hashchange", fromAddress);
fromAddress();

let shownAt = 0;
let movedAt = performance.now();
function frame(at) {
  const elapsedS = Math.min(LONGEST_FRAME_S, (at - movedAt) / 1000); // a page that was hidden does not catch up
  movedAt = at;
  if (running) {
    advance(elapsedS * speed);
    if (plant.queue.depth > MOST_DEEP) {
      setRunning(false);
      put("said", `More than ${amount(MOST_DEEP)} messages wait: the time is stopped. Start again, or change something and continue.`);
    }
    if (at - shownAt >= SHOW_EVERY_MS) {
      shownAt = at;
      show();
    }
  }
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
