// The flow as one picture: producers, the law's valve, exchange, queue, consumers, and what falls out on the way.
//
// `new FlowPicture(element).show(state)` draws it into an empty element, as often as there is news. Widths are rates, all
// to one scale; dots move at one speed, so that twice the width is twice the messages. The style sheet moves them, no
// script runs between two calls. Of the state every part may be null or absent: not known, and drawn as a dash or left out.
//
//   producers: {count, blocked, paused}      how many, how many of them the broker blocks, how many are paused
//   law: {name, reason}                      of the producer that is held back most
//   offered_per_s, allowed_per_s, published_per_s, refused_per_s (nacks), returned_per_s (no queue bound)
//   in_flight                                sent and not yet confirmed
//   exchange                                 false: there is none, as on Kafka
//   queue: {name, ready, unacked, bound, overflow}
//   wait_p50_s, wait_p99_s                   of messages whose work began lately
//   consumers: {count, paused}               how many, how many of them are paused
//   capacity_per_s, processed_per_s
//   dead_letters_per_s, dead_letters         into the dead-letter queue, and in it

import { make, putText } from "./elements.js";
import { UNKNOWN, amount, duration, rate } from "./numbers.js";
import { meaningOf } from "./words.js";

const WIDEST = 44; // CSS pixels, of the largest rate shown
const THINNEST = 3; // a rate above 0 is never invisible
const RIPPLE = 0.05; // a change of the level by less is not shown as a movement, which costs six frames
const CELLS = 20; // so many messages are drawn one by one

export class FlowPicture {
  constructor(element, { table = true } = {}) {
    this.parts = {};
    this.widths = {}; // in CSS pixels, as drawn
    this.top = 0; // the rate that is WIDEST wide
    this.most = 0; // the level at the rim of a queue without a bound
    this.picture = make("div", { className: "flow" }, ...this.#parts());
    this.picture.setAttribute("role", "img");
    this.rows = make("tbody");
    const caption = make("caption", { textContent: "The same as a table" });
    this.words = make("details", { className: "flow-words" }, make("summary", { textContent: "as a table" }),
      make("table", {}, caption, this.rows));
    element.classList.add("flow-frame");
    this.words.addEventListener("toggle", () => this.#list());
    // All streams take their steps at the same moments: else each makes the browser compose frames of its own.
    this.picture.addEventListener("animationstart", () => {
      for (const motion of this.picture.getAnimations({ subtree: true })) if (motion.animationName && motion.startTime) motion.startTime = 0;
    });
    element.replaceChildren(this.picture, ...(table ? [this.words] : []));
    new IntersectionObserver(([entry]) => this.picture.classList.toggle("still", !entry.isIntersecting)).observe(element);
    this.show({}); // nothing is known yet
  }

  #parts() {
    const part = (name, tag, ...children) => (this.parts[name] = make(tag, { className: name }, ...children));
    const words = (name) => part(name, "span");
    const pipe = (name, ...more) => make("div", { className: `pipe ${name}-pipe` },
      make("span", { className: "name", textContent: name, title: meaningOf(name) }),
      make("span", { className: "bed" }, part(`${name}-limit`, "i"), part(`${name}-stream`, "i", make("b"))), words(`${name}-rate`), ...more);
    const node = (name, ...children) => part(name, "div", make("span", { className: "name", textContent: name }), ...children);
    return [
      node("producers", words("producers-count"), words("producers-state")),
      pipe("offered"),
      node("law", part("valve", "div", make("i"), part("opening", "b"), make("i")), make("span", { className: "words" }, words("allowed-rate"), words("reason"))),
      pipe("published", part("refused", "span", make("b"), words("refused-rate"))),
      node("exchange", part("returned", "span")),
      node("queue", part("tank", "div", part("level", "i"), part("ready-cells", "span"), words("ready-count")), words("bound"), words("wait")),
      node("consumers", part("unacked-cells", "span"), words("consumers-count"), words("unacked-count"), part("dead", "span", make("b"), words("dead-count"))),
      pipe("processed"),
    ];
  }

  // Draw the state; null: nothing is known any more.
  show(state) {
    const known = state ?? {};
    this.picture.classList.toggle("stale", state === null);
    const rates = ["offered_per_s", "allowed_per_s", "published_per_s", "processed_per_s", "capacity_per_s"].map((name) => known[name] ?? 0);
    const most = niceCeil(Math.max(...rates.filter(Number.isFinite), 1));
    if (most > this.top || most < this.top / 3) this.top = most; // it does not jump for every message more or less
    this.#pipes(known);
    this.#law(known);
    this.#queue(known);
    this.#ends(known);
    this.facts = factsOf(known);
    this.picture.setAttribute("aria-label", `Flow of messages: ${this.facts.map(([name, value]) => `${name} ${value}`).join(", ")}.`);
    this.#list();
  }

  #list() {
    if (!this.words.open || !this.facts) return;
    this.rows.replaceChildren(...this.facts.map(([name, value]) => make("tr", {},
      make("th", { scope: "row", textContent: name, title: meaningOf(name) }), make("td", { textContent: value }))));
  }

  #width(perS) {
    return perS > 0 ? Math.max(THINNEST, Math.min(WIDEST, (WIDEST * perS) / this.top)) : 0;
  }

  // Give a part its width; a change that nobody would see is none, so that a steady flow is not laid out again.
  #widen(name, width) {
    const part = this.parts[name];
    const before = this.widths[name] ?? -1;
    if (Math.abs(width - before) < 1 && width > 0 === before > 0) return;
    this.widths[name] = width;
    part.style.setProperty("--w", `${width}px`);
  }

  #pipes(known) {
    const limits = { processed: known.capacity_per_s };
    for (const name of ["offered", "published", "processed"]) {
      const perS = known[`${name}_per_s`] ?? null;
      this.#widen(`${name}-stream`, this.#width(perS));
      this.#widen(`${name}-limit`, this.#width(limits[name] ?? 0));
      const limit = name === "processed" && (known.capacity_per_s ?? null) !== null ? ` of ${rate(known.capacity_per_s)}` : "";
      putText(this.parts[`${name}-rate`], rate(perS) + limit);
    }
    const refused = known.refused_per_s ?? 0;
    this.parts.refused.hidden = refused <= 0;
    this.#widen("refused", this.#width(refused));
    putText(this.parts["refused-rate"], `${rate(refused)} refused`);
    const returned = known.returned_per_s ?? 0;
    this.parts.returned.hidden = returned <= 0;
    putText(this.parts.returned, `↓ ${rate(returned)} returned`);
    this.parts.exchange.hidden = known.exchange === false;
  }

  #law({ law, producers, allowed_per_s: allowed = null, offered_per_s: offered = null }) {
    const blocked = Boolean(producers?.blocked);
    const { parts } = this;
    const hidden = !producers;
    for (const name of ["producers", "law"]) parts[name].hidden = hidden;
    parts["offered-stream"].closest(".pipe").hidden = hidden;
    if (hidden) return;
    parts.law.classList.toggle("blocked", blocked);
    const open = blocked ? 0 : allowed === null ? WIDEST : this.#width(Math.min(allowed, this.top));
    this.#widen("valve", open);
    putText(parts["allowed-rate"], blocked ? "blocked by the broker" : allowed === null ? "no limit" : `allows ${rate(allowed)}`);
    const held = offered !== null && allowed !== null && offered - allowed > 0.05 * offered;
    parts.law.classList.toggle("holds", held && !blocked);
    putText(parts.reason, law ? `${law.name}: ${law.reason}` : "");
    putText(parts["producers-count"], producers.count === null ? "" : `× ${amount(producers.count)}`);
    parts.producers.classList.toggle("blocked", blocked);
    const state = blocked ? `${producers.blocked === producers.count ? "" : `${producers.blocked} `}blocked` : producers.paused ? `${producers.paused === producers.count ? "" : `${producers.paused} `}paused` : "";
    putText(parts["producers-state"], state);
  }

  #queue({ queue, wait_p50_s: p50 = null, wait_p99_s: p99 = null }) {
    const { parts } = this;
    const ready = queue?.ready ?? null;
    const bound = queue?.bound || null;
    this.most = Math.max(this.most, niceCeil(ready ?? 0), 100);
    const share = ready === null ? 0 : Math.min(1, ready / (bound ?? this.most));
    const level = ready > 0 ? Math.max(0.02, Math.round(share * 100) / 100) : 0; // steps of 1 %: a ripple is not drawn again
    if (level !== this.widths.level) {
      parts.level.classList.toggle("moves", Math.abs(level - (this.widths.level ?? 0)) > RIPPLE);
      parts.level.style.setProperty("--level", (this.widths.level = level));
    }
    parts.tank.classList.toggle("bounded", bound !== null);
    parts.tank.classList.toggle("high", share > 0.5 && bound !== null);
    parts.tank.classList.toggle("full", share >= 0.98 && bound !== null);
    cells(parts["ready-cells"], ready !== null && ready <= CELLS ? ready : 0);
    putText(parts["ready-count"], ready === null ? UNKNOWN : `${amount(ready)} ready`);
    putText(parts.bound, bound === null ? "" : `bound ${amount(bound)}${queue.overflow ? `, ${queue.overflow}` : ""}`);
    putText(parts.wait, p50 === null && p99 === null ? "" : `wait ${duration(p50)}, p99 ${duration(p99)}`);
    parts.queue.title = queue?.name ?? "";
  }

  #ends({ queue, consumers, dead_letters: dead = null, dead_letters_per_s: deadPerS = null }) {
    const { parts } = this;
    const unacked = queue?.unacked ?? null;
    cells(parts["unacked-cells"], Math.min(unacked ?? 0, CELLS), (unacked ?? 0) > CELLS);
    putText(parts["unacked-count"], unacked === null ? "" : `${amount(unacked)} in hand`);
    const count = consumers?.count ?? null;
    const paused = consumers?.paused ? `, ${consumers.paused === count ? "" : `${consumers.paused} `}paused` : "";
    putText(parts["consumers-count"], count === null ? UNKNOWN : count === 0 ? "none" : `× ${amount(count)}${paused}`);
    parts.consumers.classList.toggle("gone", count === 0 || Boolean(paused));
    parts.dead.hidden = !dead && !deadPerS;
    parts.dead.classList.toggle("falling", deadPerS > 0);
    putText(parts["dead-count"], `${amount(dead)} dead letters${deadPerS > 0 ? `, ${rate(deadPerS)}` : ""}`);
  }
}

// What the picture shows, as names and values.
function factsOf(known) {
  const { producers, law, queue, consumers } = known;
  const stopped = (who, what) => (who?.[what] ? `, ${who[what]} ${what}` : "");
  const facts = [
    ["producers", producers ? amount(producers.count) + stopped(producers, "blocked") + stopped(producers, "paused") : UNKNOWN],
    ["offered", rate(known.offered_per_s ?? null)],
    ["allowed", producers && (known.allowed_per_s ?? null) === null ? "no limit" : rate(known.allowed_per_s ?? null)],
    ...(law ? [["law", `${law.name}: ${law.reason}`]] : []),
    ["published", rate(known.published_per_s ?? null)],
    ["in flight", amount(known.in_flight ?? null)],
    ["refused", rate(known.refused_per_s ?? null)],
    ["returned", rate(known.returned_per_s ?? null)],
    ["ready", amount(queue?.ready ?? null) + (queue?.bound ? ` of ${amount(queue.bound)}` : "")],
    ["unacked", amount(queue?.unacked ?? null)],
    ["queue wait p50", duration(known.wait_p50_s ?? null)],
    ["queue wait p99", duration(known.wait_p99_s ?? null)],
    ["consumers", consumers ? amount(consumers.count) + stopped(consumers, "paused") : UNKNOWN],
    ["processed", rate(known.processed_per_s ?? null)],
    ["capacity", rate(known.capacity_per_s ?? null)],
    ["dead letters", amount(known.dead_letters ?? null)],
  ];
  return facts;
}

// What goes in and out: by the reports of programs; of queues that the user asked for always what their broker tells,
// because others may use them as well.
export function flowing(now) {
  const { rates } = now;
  const work = now.queues[now.work_queue];
  const reported = [rates.published_per_s ?? null, rates.processed_per_s ?? null];
  const counted = [work?.published_per_s ?? null, work?.acked_per_s ?? null];
  const [first, second] = now.asked?.length && work ? [counted, reported] : [reported, counted];
  return first.map((perS, side) => perS ?? second[side]);
}

// The state that a monitor's snapshot (GET /api/snapshot) describes.
export function flowOf(now) {
  const [coming, going] = flowing(now);
  const work = now.queues[now.work_queue];
  const { rates, producers, consumers } = now;
  const paused = (reports) => reports.filter((report) => report.paused ?? report.target_rate_per_s === 0).length;
  const share = (report) => report.pacing_rate_per_s / Math.max(report.target_rate_per_s, 1e-9);
  const law = producers.reduce((a, b) => (a && share(a) <= share(b) ? a : b), null);
  const count = consumers.length || (work?.consumers ?? null);
  return {
    producers: producers.length ? { count: producers.length, blocked: producers.filter((report) => report.blocked).length, paused: paused(producers) } : null,
    law: law && { name: law.strategy, reason: law.reason },
    offered_per_s: rates.offered_per_s, allowed_per_s: now.pacing_rate_per_s,
    published_per_s: coming,
    refused_per_s: rates.nacked_per_s, returned_per_s: rates.returned_per_s,
    in_flight: producers.length ? producers.reduce((sum, report) => sum + report.in_flight, 0) : null,
    exchange: !now.address.startsWith("kafka"),
    queue: work ? { name: work.name, ready: work.ready, unacked: work.unacked, bound: work.max_length, overflow: work.overflow } : null,
    wait_p50_s: now.queue_wait.p50_s ?? work?.outlook?.wait_s ?? null, wait_p99_s: now.queue_wait.p99_s,
    consumers: count === null ? null : { count, paused: paused(consumers) },
    capacity_per_s: now.bottleneck_per_s, processed_per_s: going,
    dead_letters_per_s: now.queues[now.dead_letter_queue]?.published_per_s ?? rates.dead_lettered_per_s, dead_letters: now.dead_letters,
  };
}

function cells(element, count, more = false) {
  while (element.childElementCount < count) element.append(document.createElement("i"));
  while (element.childElementCount > count) element.lastElementChild.remove();
  element.classList.toggle("more", more);
}

// The next of 1, 1.5, 2, 3, 5, 7.5, 10, 15, … that is not below the value.
function niceCeil(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 3, 5, 7.5, 10].map((step) => step * power).find((step) => step >= value * 0.98);
}
