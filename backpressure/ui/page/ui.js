// The page of runs: what can be started, what happens, and what was. Text from elsewhere is set as text, never as HTML.

import { Charts, clockTicks } from "./charts.js";
import { element, make, put, switchTheme } from "./elements.js";
import { FlowPicture, flowOf } from "./flow.js";
import { UNKNOWN, duration, percent, rate } from "./numbers.js";

const KEPT_MS = 15 * 60 * 1000;
const STATES = { idle: "no run", starting: "starting", running: "running", stopping: "stopping", judging: "writing the report" };

let choices = { scenarios: [], laws: [], faults: [] };
let run = { state: "idle", phases: [], notes: [], settings: {} };
let points = [];

// Ask the server; say what it answers when it refuses. Returns the content, or null.
async function ask(path, body, said = "answer") {
  try {
    const answer = await fetch(path, body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const content = await answer.json();
    if (answer.ok) return content;
    const { detail } = content;
    put(said, typeof detail === "string" ? detail : (detail ?? []).map((problem) => `${problem.loc.at(-1)}: ${problem.msg}`).join("; ") || String(answer.status), "bad");
  } catch {
    put(said, "pace ui does not answer: is it still running?", "bad");
  }
  return null;
}

// --- starting and steering ----------------------------------------------------------------------------------------------

function offer(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, textContent, disabled = false]) => make("option", { value, textContent, disabled })));
  if (options.some(([value, , disabled]) => value === before && !disabled)) select.value = before;
}

async function learn() {
  const known = await ask("/api/choices");
  if (!known) return;
  choices = known;
  put("where", `on ${known.broker}, runs in ${known.runs}`);
  const first = element("scenario").options.length === 0;
  offer(element("scenario"), known.scenarios.map(({ name }) => [name, name]));
  if (first && known.scenarios.some(({ name }) => name === "recovery")) element("scenario").value = "recovery";
  offer(element("law"), [["", "as the scenario says"], ...known.laws.map((law) => [law, law])]);
  offer(document.querySelector('[data-keys="producer.strategy"] select'), known.laws.map((law) => [law, law]));
  offer(element("fault"), known.faults.map(({ name, obstacle }) => [name, name, obstacle !== ""]));
  describe();
}

function describe() {
  const plan = choices.scenarios.find(({ name }) => name === element("scenario").value);
  put("about", plan ? `${plan.summary.replace(/[.]$/, "")}. ${duration(plan.duration_s)}: ${plan.phases.join(", ")}. Law: ${plan.strategy}.` : "", "quiet");
  const fault = choices.faults.find(({ name }) => name === element("fault").value);
  const blocked = choices.faults.filter(({ obstacle }) => obstacle);
  const reasons = [...new Set(blocked.map(({ obstacle }) => obstacle))].map((obstacle) => `${blocked.filter((one) => one.obstacle === obstacle).map(({ name }) => name).join(", ")}: ${obstacle}.`);
  put("fault-about", [fault?.summary ?? "", ...reasons].join(" "), "quiet");
}

element("scenario").addEventListener("change", describe);
element("fault").addEventListener("change", describe);

element("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  put("answer", "starting …");
  const byKey = document.activeElement === element("go");
  element("go").disabled = true;
  const begun = await ask("/api/run", {
    scenario: element("scenario").value, strategy: element("law").value,
    settings: element("settings").value.split(/\s+/).filter(Boolean), ready: element("ready").checked,
  });
  if (begun) {
    put("answer", "");
    show(begun);
    if (byKey) element("stop").focus(); // a button that is disabled cannot keep the keyboard
    learn(); // which faults this run is ready for
  } else {
    element("go").disabled = run.state !== "idle";
    if (byKey) element("go").focus();
  }
});

element("stop").addEventListener("click", async () => {
  const told = await ask("/api/run/stop", {});
  if (told) show(told);
});

for (const form of document.querySelectorAll("[data-keys]")) {
  const field = form.querySelector("input, select");
  field.addEventListener("input", () => (form.dataset.touched = "yes"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = form.dataset.keys;
    const value = field.tagName === "SELECT" ? field.value : Number(field.value);
    put("answer", `${key} = ${value} …`);
    const told = await ask("/api/run/settings", { changes: { [key]: value } });
    if (!told) return;
    put("answer", `${key} = ${value}: done`, "good");
    delete form.dataset.touched;
    show(told);
  });
}

element("disturb").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fault = element("fault").value;
  put("answer", `${fault} …`);
  const told = await ask("/api/run/fault", { fault, for_s: Number(element("fault-s").value) });
  if (!told) return;
  put("answer", `${fault} for ${element("fault-s").value} s`, "good");
  show(told);
});

// --- what happens ---------------------------------------------------------------------------------------------------------

const MOODS = { passed: "good", failed: "bad", interrupted: "warn", error: "bad" };

function show(state) {
  const ended = run.state !== "idle" && state.state === "idle";
  run = state;
  const busy = state.state !== "idle";
  put("state", STATES[state.state] + (state.fault ? `, ${state.fault}` : ""), `pill ${state.state === "running" ? "good" : busy ? "warn" : ""}`);
  element("go").disabled = busy;
  element("stop").disabled = !["starting", "running", "stopping"].includes(state.state);
  element("stop").textContent = state.state === "stopping" ? "Stop at once" : "Stop";
  element("steer").disabled = state.state !== "running";
  showSteering(state.settings);
  element("progress").hidden = !state.scenario;
  put("title", `${state.scenario}${state.strategy ? ` under ${state.strategy}` : ""}${state.broker ? ` on ${state.broker}` : ""}`);
  showPhases(state);
  put("reason", state.reason, "bad");
  showVerdict(state);
  showNotes(state.notes);
  if (ended) {
    listRuns();
    learn();
    flow.show(null);
  }
}

function showSteering(settings) {
  for (const form of document.querySelectorAll("[data-keys]")) {
    const field = form.querySelector("input, select");
    const value = settings[form.dataset.keys];
    if (value === undefined || form.dataset.touched || document.activeElement === field) continue;
    field.value = String(value);
  }
}

function showPhases({ phases, phase, elapsed_s: elapsed, share, state }) {
  const key = JSON.stringify(phases);
  const list = element("phases");
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...phases.map(({ name }) => {
      const bar = make("progress", { max: 1, value: 0 });
      bar.setAttribute("aria-label", name);
      return make("li", {}, make("span"), bar);
    }));
  }
  const over = state === "judging" || (state === "idle" && phase === null);
  phases.forEach(({ name, duration_s: duration_ }, index) => {
    const item = list.children[index];
    const now = index === phase;
    const done = over || (phase !== null && index < phase);
    const part = now ? share ?? Math.min(1, elapsed / duration_) : done ? 1 : 0;
    const text = now ? `${name} ${share === null ? `${Math.min(elapsed, duration_).toFixed(0)} of ${duration_} s` : percent(share)}` : `${name} ${duration_} s`;
    if (item.firstChild.textContent !== text) item.firstChild.textContent = text;
    item.lastChild.value = part;
    if (now) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

function showVerdict({ verdict, sentence, folder, state }) {
  const place = element("verdict");
  place.hidden = !verdict || state !== "idle";
  if (place.hidden || place.dataset.of === folder + verdict) return;
  place.dataset.of = folder + verdict;
  place.className = MOODS[verdict] ?? "";
  const link = make("a", { href: `/runs/${folder}/report.html`, textContent: "open the report" });
  place.replaceChildren(sentence || verdict, " · ", link);
}

function showNotes(notes) {
  const list = element("notes");
  const key = `${notes.length} ${notes.at(-1)?.join(" ")}`;
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const items = notes.slice().reverse().map(([at, text]) => make("li", {},
    make("time", { textContent: new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" }) }), text));
  list.replaceChildren(...(items.length ? items : [make("li", { className: "quiet", textContent: "nothing yet" })]));
}

const flow = new FlowPicture(element("flow"));
flow.show(null);
const clock = (at) => new Date(at).toLocaleTimeString([], { hourCycle: "h23" });
const charts = new Charts({ time: clock, ticks: clockTicks, bar: element("cursor") });
const drawn = {
  rates: charts.add(element("chart-rates"), { label: "Rates", format: rate, scale: "auto" }),
  depth: charts.add(element("chart-depth"), { label: "Queue depth", scale: "auto" }),
  wait: charts.add(element("chart-wait"), { label: "Queue wait", format: duration, scale: "auto" }),
};

function draw() {
  if (document.hidden) return;
  const t = points.map((point) => point.at_ms);
  const to = t.at(-1) ?? Date.now();
  const series = (names) => names.map(([name, key]) => ({ name, t, y: points.map((point) => point[key]) }));
  const marks = run.notes.filter(([at]) => at * 1000 >= (t[0] ?? to)).map(([at, text]) => ({ t: at * 1000, text }));
  charts.show({ from: Math.min(t[0] ?? to, to - 30_000), to, marks }, new Map([
    [drawn.rates, series([["offered", "offered_per_s"], ["allowed", "allowed_per_s"], ["published", "published_per_s"], ["processed", "processed_per_s"]])],
    [drawn.depth, series([["ready", "ready"], ["unacked", "unacked"]])],
    [drawn.wait, series([["p50", "wait_p50_s"], ["p99", "wait_p99_s"]])],
  ]));
}

// --- earlier runs -----------------------------------------------------------------------------------------------------------

async function listRuns() {
  const found = await ask("/api/runs", undefined, "compared");
  if (!found) return;
  const before = chosen();
  const held = element("runs").contains(document.activeElement) ? document.activeElement.value ?? document.activeElement.textContent : null;
  const heads = [["tick"], ["run"], ["law"], ["verdict"], ["used", "number"], ["wait p99", "number"], ["why"]];
  const head = make("tr", {}, ...heads.map(([textContent, className = ""]) => make("th", { scope: "col", textContent, className })));
  const rows = found.map((one) => {
    const tick = make("input", { type: "checkbox", value: one.name });
    tick.setAttribute("aria-label", `compare ${one.name}`);
    tick.checked = before.includes(one.name);
    tick.addEventListener("change", ticked);
    return make("tr", {},
      make("td", {}, tick),
      make("td", { className: "short" }, make("a", { href: `/runs/${one.name}/report.html`, textContent: one.name })),
      make("td", { textContent: one.strategy }),
      make("td", { textContent: one.verdict, className: MOODS[one.verdict] ?? "" }),
      make("td", { textContent: percent(one.utilisation), className: "number" }),
      make("td", { textContent: one.wait_p99_ms === null ? UNKNOWN : duration(one.wait_p99_ms / 1000), className: "number" }),
      make("td", { textContent: one.sentence, className: "sentence" }));
  });
  element("runs").replaceChildren(head, ...(rows.length ? rows : [make("tr", {}, make("td", { colSpan: heads.length, className: "quiet", textContent: "none yet" }))]));
  const holds = (control) => (control.value ?? control.textContent) === held;
  if (held !== null) [...element("runs").querySelectorAll("input, a")].find(holds)?.focus(); // the keyboard stays where it was
  ticked();
}

const chosen = () => [...document.querySelectorAll("#runs input:checked")].map((tick) => tick.value);

function ticked() {
  element("side").disabled = chosen().length !== 2;
}

element("compare").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [one, other] = chosen();
  put("compared", "comparing …");
  element("side").disabled = true;
  const done = await ask("/api/compare", { run: one, other }, "compared");
  ticked();
  if (done) {
    put("compared", "");
    element("compared").replaceChildren(`${done.sentence}. `, make("a", { href: done.url, textContent: `${one} (A) beside ${other} (B)` }));
  }
});

// --- the stream ---------------------------------------------------------------------------------------------------------------

function listen() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("history", async (event) => {
    points = JSON.parse(event.data);
    draw();
    const now = await ask("/api/run");
    if (now) show(now);
  });
  stream.addEventListener("run", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("tick", (event) => {
    const { point, now } = JSON.parse(event.data);
    points.push(point);
    while (points[0].at_ms < point.at_ms - KEPT_MS) points.shift();
    flow.show(flowOf(now));
    draw();
  });
  stream.onerror = () => put("state", "pace ui does not answer; trying again", "pill bad");
}

switchTheme(element("theme"));
document.addEventListener("visibilitychange", draw);
learn().finally(listen);
listRuns();
