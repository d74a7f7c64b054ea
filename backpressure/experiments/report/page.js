// Draws a run's timeline: the flow picture at one moment, and the charts, which choose the moment.

import { Charts, indexAt } from "./charts.js";
import { element } from "./elements.js";
import { FlowPicture } from "./flow.js";
import { amount, duration, rate } from "./numbers.js";

const data = JSON.parse(document.getElementById("data").textContent);
const seconds = (t) => `${t.toFixed(t < 100 && t % 1 ? 1 : 0)} s`;
const REPLAY_S = 20; // however long the run was

function stateAt(t) {
  const i = indexAt(data.t, t);
  const wait = indexAt(data.wait_t, t);
  const phase = data.phases.findLast((one) => one.start <= t) ?? data.phases[0];
  const running = (role) => data.processes.filter(([kind, start, end]) => kind === role && start <= t && t < end).length;
  const before = indexAt(data.t, t - 1);
  const waited = (name) => (data.wait_t.length && Math.abs(data.wait_t[wait] - t) < 2 ? milli(data.wait[name][wait]) : null);
  const count = (role) => (data.processes.some(([kind]) => kind === role) ? running(role) : null); // null: not started by the run
  return {
    producers: count("producer") === 0 ? null : { count: count("producer"), blocked: data.blocked[i] },
    law: phase && { name: phase.law, reason: data.reason[i] },
    offered_per_s: data.offered[i], allowed_per_s: data.allowed[i], published_per_s: data.published[i], refused_per_s: data.refused[i],
    in_flight: data.in_flight[i], exchange: data.exchange,
    queue: data.ready[i] === null ? null : { ready: data.ready[i], unacked: data.unacked[i], bound: data.max_length[i] },
    wait_p50_s: waited("p50"), wait_p99_s: waited("p99"),
    consumers: { count: count("consumer") },
    capacity_per_s: data.capacity[indexAt(data.capacity_t, t, true)] ?? null, processed_per_s: data.processed[i],
    dead_letters: data.dead_letters[i],
    dead_letters_per_s: Math.max(0, (data.dead_letters[i] - data.dead_letters[before]) / Math.max(data.t[i] - data.t[before], 0.1)),
  };
}

const milli = (ms) => (ms === null ? null : ms / 1000);

const flow = new FlowPicture(element("flow"));
const slider = element("moment");
slider.max = String(data.length_s);

function showMoment(t) {
  slider.value = String(t);
  slider.setAttribute("aria-valuetext", seconds(t));
  const phase = data.phases.findLast((one) => one.start <= t);
  element("flow-time").textContent = `at ${seconds(t)}${phase ? `, ${phase.name}` : ""}`;
  flow.show(stateAt(t));
}

const charts = new Charts({
  time: (t) => seconds(t), bar: element("cursor"),
  onCursor: (t) => {
    if (t !== null) showMoment(t);
  },
});

const lines = {
  rates: [
    { name: "offered", t: data.t, y: data.offered, dash: true },
    { name: "capacity", t: data.capacity_t, y: data.capacity, step: true, width: 5, alpha: 0.35 },
    { name: "allowed", t: data.t, y: data.allowed, width: 1.2, notes: data.reason },
    { name: "published", t: data.t, y: data.published },
    { name: "processed", t: data.t, y: data.processed, width: 2.2 },
  ],
  depth: [
    { name: "depth", t: data.t, y: data.depth, fill: true },
    { name: "ready", t: data.t, y: data.ready, width: 1.2 },
  ],
  wait: [
    ...["max", "p99", "p95", "p50"].map((name) => ({ name, t: data.wait_t, y: data.wait[name].map(milli) })),
    { name: "best possible p99", t: data.bound_t, y: data.bound.map(milli), dash: true },
  ],
  in_flight: [{ name: "in flight", t: data.t, y: data.in_flight }],
  memory: Object.entries(data.memory).map(([name, y]) => ({ name, t: data.t, y })),
};
const forms = {
  rates: { label: "Rates", format: rate, scale: "auto", height: 230 },
  depth: { label: "Queue depth", scale: "auto" },
  wait: { label: "Queue wait", format: duration, scale: "auto" },
  in_flight: { label: "In flight", height: 130 },
  memory: { label: "Memory", format: (megabytes) => `${amount(megabytes)} MB` },
};

const series = new Map();
for (const [name, form] of Object.entries(forms)) {
  const measured = lines[name].some((line) => line.y.some((value) => value !== null));
  if (measured) series.set(charts.add(element(name), form), lines[name]);
  else element(name).closest("figure").remove(); // a simulation has neither memory nor messages in flight
}
charts.show({
  from: 0, to: data.length_s,
  bands: [
    ...data.phases.map(({ name, start, end }) => ({ from: start, to: end, text: name })),
    ...data.faults.map(({ name, start, end }) => ({ from: start, to: end, text: `⚡ ${name}`, bad: true })),
  ],
  marks: data.notes,
}, series);

let replayed = null; // when the replay began, and where

function stop() {
  replayed = null;
  element("replay").textContent = "replay";
}

function step(now) {
  if (!replayed) return;
  const t = replayed.from + ((now - replayed.at) / 1000) * (data.length_s / REPLAY_S);
  if (t >= data.length_s) return stop();
  if (now - replayed.drawn > 100) { // ten moments a second are as many as there are samples
    replayed.drawn = now;
    charts.point(t);
  }
  requestAnimationFrame(step);
}

element("replay").addEventListener("click", () => {
  if (replayed) return stop();
  const from = Number(slider.value);
  element("replay").textContent = "stop";
  requestAnimationFrame((now) => {
    replayed = { at: now, drawn: 0, from: from > data.length_s * 0.98 ? 0 : from };
    step(now);
  });
});
slider.addEventListener("input", () => {
  stop();
  charts.point(Number(slider.value));
});

if (data.t.length) { // first the moment that tells most: the deepest queue
  const depths = data.depth.map((depth) => depth ?? 0);
  showMoment(data.t[depths.indexOf(Math.max(...depths))]);
} else {
  element("flow").closest("figure").remove();
}
