// Draws every law of a comparison over time; the trade-off is on the page already.

import { Charts } from "./charts.js";
import { amount, rate } from "./numbers.js";
import { hueOf } from "./words.js";

const data = JSON.parse(document.getElementById("data").textContent);
const charts = new Charts({ time: (t) => `${t.toFixed(t < 100 && t % 1 ? 1 : 0)} s`, bar: document.getElementById("cursor") });
const HUES = 8; // then the colours begin again, dashed
const looks = (index) => ({ hue: hueOf("", index), dash: index >= HUES });
const lines = (key) => data.laws.map((law, index) => ({ name: law.law, t: law.t, y: law[key], width: 1.5, ...looks(index) }));
const capacities = data.capacities.map((one, index) => ({
  name: one.law, t: one.t, y: one.capacity, step: true, width: 5, alpha: 0.3, hue: data.capacities.length > 1 ? hueOf("", index) : "grey",
}));

const add = (id, label, format) => charts.add(document.getElementById(id), { label, format, scale: "auto", height: 260 });
charts.show({ from: 0, to: data.length_s }, new Map([
  [add("depth", "Queue depth", amount), lines("depth")],
  [add("processed", "Processed", rate), [...capacities, ...lines("processed")]],
  [add("allowed", "Allowed rate", rate), [...capacities, ...lines("allowed")]],
]));
