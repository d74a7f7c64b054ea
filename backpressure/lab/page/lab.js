// The lab's page: buttons that post, and the results once a second. Text from messages is set as text, never as HTML.

import { element, make, put, switchTheme } from "/assets/elements.js";
import { duration } from "/assets/numbers.js";

const EVERY_MS = 1000;

const took = (value) => (value === null ? "" : duration(value));
const clock = (at) => (at ? new Date(at).toLocaleTimeString() : "");

function reason(detail) {
  if (!Array.isArray(detail)) return detail ?? "no reason given";
  return detail.map((problem) => `${problem.loc.at(-1)}: ${problem.msg}`).join("; ");
}

async function request(method, path, body) {
  try {
    const headers = body ? { "Content-Type": "application/json" } : {};
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    const content = await response.json();
    if (response.ok) put("answer", `${method} ${path}: done`, "good");
    else put("answer", `${method} ${path}: ${response.status}, ${reason(content.detail)}`, "bad");
  } catch (error) {
    put("answer", `${method} ${path}: the lab does not answer`, "bad");
  }
  await refresh();
}

function contentOf(form) {
  const content = {};
  for (const field of form.querySelectorAll("[name]")) {
    if (field.value !== "") content[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  if ("message" in content) Object.assign(content, { timestamp: new Date().toISOString(), source: "lab page" });
  return content;
}

function button(label, method, path) {
  const control = make("button", { type: "button", textContent: label });
  control.dataset.path = path;
  control.addEventListener("click", () => request(method, path));
  return control;
}

function table(target, headings, rows) {
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell) => {
      const item = make(tag, { className: "name" });
      item.append(cell ?? "");
      return item;
    }));
    return row;
  };
  const held = target.contains(document.activeElement) ? document.activeElement.dataset.path : undefined;
  target.replaceChildren(line(headings, "th"), ...rows.map((cells) => line(cells, "td")));
  [...target.querySelectorAll("button")].find((control) => control.dataset.path === held)?.focus(); // the keyboard stays where it was
}

function showMessages(target, messages) {
  table(target, ["message", "from", "written", "received"], messages.toReversed().map((one) => [
    (one.importance ? `[${one.importance}] ` : "") + one.message + (one.redelivered ? " (again)" : ""),
    one.source, clock(one.timestamp), clock(one.received_at),
  ]));
}

const dropped = (count) => (count ? `, ${count} of them not kept` : "");

function showBoard(id, { address, missing, board }) {
  const section = element(id);
  section.querySelector(".address").textContent = address || missing;
  for (const control of section.querySelectorAll("input, button")) control.disabled = !board;
  if (!board) return;
  section.querySelector(".counts").textContent =
    `${board.sent} sent, ${board.received} received${dropped(board.dropped)}; ${board.consuming ? "consuming" : "no consumer: messages wait"}`;
  showMessages(section.querySelector(".messages"), board.messages);
}

function showTasks({ tasks, workers }) {
  element("tasks").querySelector(".counts").textContent =
    `${tasks.submitted} submitted, ${tasks.completed} done${dropped(tasks.dropped)}`;
  table(element("workers"), ["worker", "pid", "state", "action"], workers.map((worker) => [
    worker.worker, String(worker.pid),
    worker.state === "ended" ? `ended (${worker.exit_code < 0 ? `signal ${-worker.exit_code}` : `exit code ${worker.exit_code}`})` : worker.state,
    worker.state === "running" ? button("Kill", "POST", `/tasks/workers/${encodeURIComponent(worker.worker)}/kill`) : "",
  ]));
  table(element("results"), ["task", "complexity", "worker", "waited", "took", "result"], tasks.results.toReversed().map((result) => [
    `${result.type} ${result.data}`, String(result.complexity), result.worker,
    took(result.waited_s), took(result.processing_time_s), result.redelivered ? "second attempt" : "",
  ]));
}

// Cards are kept between refreshes, so that a button stays under the pointer.
function subscriberCard(id) {
  const known = [...element("subscribers").children].find((card) => card.dataset.id === id);
  if (known) return known;
  const card = document.createElement("div");
  card.dataset.id = id;
  const path = `/pubsub/subscribers/${encodeURIComponent(id)}`;
  const controls = make("div", { className: "row" });
  controls.append(button("Consume", "POST", `${path}/consume`), button("Remove", "DELETE", path));
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, make("table"));
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `Messages of ${id}`);
  card.append(make("h3", { textContent: id }), controls, make("p", { className: "counts" }), scroll);
  element("subscribers").append(card);
  return card;
}

function showSubscribers({ published, subscribers }) {
  element("pubsub").querySelector(":scope > .counts").textContent = `${published} published, ${subscribers.length} subscribers`;
  for (const one of subscribers) {
    const card = subscriberCard(one.subscriber_id);
    card.querySelector(".counts").textContent =
      `${one.received} received${dropped(one.dropped)}; ${one.consuming ? "consuming" : "its queue keeps what is published"}`;
    showMessages(card.querySelector("table"), one.messages);
  }
  const ids = new Set(subscribers.map((one) => one.subscriber_id));
  for (const card of [...element("subscribers").children]) if (!ids.has(card.dataset.id)) card.remove();
}

let shown = "";

async function refresh() {
  const pill = element("state");
  try {
    const response = await fetch("/status");
    if (!response.ok) throw new Error(`answer ${response.status}`);
    const text = await response.text();
    [pill.textContent, pill.className] = ["live", "pill good"];
    if (text === shown) return; // nothing moves under the pointer when nothing has changed
    shown = text;
    const status = JSON.parse(text);
    showBoard("rabbitmq", status.rabbitmq);
    showBoard("kafka", status.kafka);
    showTasks(status);
    showSubscribers(status);
  } catch (error) {
    [pill.textContent, pill.className] = ["the lab does not answer; trying again", "pill bad"];
  }
}

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    request("POST", form.dataset.post, contentOf(form));
  });
}
for (const control of document.querySelectorAll("button[data-post]")) {
  control.addEventListener("click", () => request("POST", control.dataset.post));
}
element("ten").addEventListener("click", async () => {
  const task = contentOf(element("ten").form);
  for (let count = 0; count < 10; count += 1) await request("POST", "/tasks/submit", task);
});
switchTheme(element("theme"));
setInterval(() => document.hidden || refresh(), EVERY_MS);
refresh();
