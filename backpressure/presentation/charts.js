// Charts over time that belong together: one time axis, one cursor, one zoom, the same events in each.
//
//   const charts = new Charts({ time: (t, span) => text, ticks: (from, to, most) => [t, …], onCursor: (t) => {}, bar: element });
//   const rates = charts.add(element, { label: "Rates", format: rate, scale: "auto" });
//   charts.show({ from, to, bands: [{ from, to, text, bad }], marks: [{ t, text, mood }] }, new Map([[rates, series]]));
//
// A series is {name, t, y, hue?, dash?, width?, step?, fill?, dots?, quiet?, notes?}: `t` ascends in the unit of `from`
// and `to`, null in `y` is a gap, `notes` are words for each point. `quiet`: drawn, but not in the legend. A scale is
// "linear" from 0, "log", or "auto": logarithmic where one series is eight times another, or leaps to ten times itself.
// A logarithmic axis is broken at its foot, where 0 is. Hovering one chart reads all of them; dragging zooms; arrow
// keys move the cursor, + and - zoom, Escape shows everything again.
//
// Why no library: plotly draws all this, but its one bundle on PyPI makes a report of 4.9 MB (with this file 0.16 MB;
// drawn after 79 ms instead of 258 ms, 1.1 instead of 10.8 MB of heap); uPlot is small, but no maintained package on PyPI
// ships it, and a report must be made without npm and open without a network.

import { UNKNOWN, amount } from "./numbers.js";
import { hueOf, meaningOf } from "./words.js";

const LEFT = 52, RIGHT = 10, TOP = 16, BOTTOM = 22, FOOT = 14;
const NEAR_PX = 7;
const MANY = 40; // events in sight, from which on they are only ticks at the upper edge

export class Charts {
  constructor({ time = amount, ticks = null, onCursor = () => {}, bar = null, restMs = 0 }) {
    this.time = time;
    this.restMs = restMs; // new points alone are not drawn sooner after the last drawing; the legend tells them at once
    this.ticks = ticks;
    this.onCursor = onCursor;
    this.charts = [];
    this.span = { from: 0, to: 1, bands: [], marks: [] };
    this.zoomed = null;
    this.cursor = null;
    this.bar = bar;
    if (bar) {
      bar.classList.add("chart-bar");
      this.said = Object.assign(document.createElement("span"), { className: "chart-said" });
      this.reset = Object.assign(document.createElement("button"), { type: "button", textContent: "whole time", hidden: true });
      this.reset.addEventListener("click", () => this.zoom(null));
      bar.replaceChildren(this.said, this.reset);
    }
    this.#say();
    this.colours = new Map();
    const repaint = () => {
      this.colours.clear();
      this.redraw();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  add(element, options) {
    const chart = new Chart(this, element, options);
    this.charts.push(chart);
    return chart;
  }

  show(span, series) {
    this.span = { bands: [], marks: [], ...span };
    for (const [chart, lines] of series) chart.take(lines);
    for (const chart of this.charts) chart.later(!chart.due);
    this.#say();
  }

  redraw() {
    for (const chart of this.charts) chart.later();
    this.#say();
  }

  // The value of one of the theme's colours, asked for once: asking makes the browser compute styles.
  colour(name) {
    if (!this.colours.has(name)) this.colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
    return this.colours.get(name);
  }

  get window() {
    return this.zoomed ?? [this.span.from, this.span.to];
  }

  zoom(range) {
    const [least, most] = [this.span.from, this.span.to];
    let wanted = range && [Math.max(least, Math.min(...range)), Math.min(most, Math.max(...range))];
    if (wanted && (wanted[1] - wanted[0] < (most - least) / 1000 || (wanted[0] <= least && wanted[1] >= most))) wanted = null;
    this.zoomed = wanted;
    if (this.reset) this.reset.hidden = !wanted;
    this.redraw();
  }

  point(t) {
    this.cursor = t;
    for (const chart of this.charts) chart.laterCursor();
    this.#say();
    this.onCursor(t);
  }

  #say() {
    if (!this.bar) return;
    const text = this.cursor === null ? "Hover or use the arrow keys to read all charts at one time; drag to zoom."
      : [this.time(this.cursor), ...this.around(this.cursor)].join(" · ");
    if (this.said.textContent !== text) this.said.textContent = text;
  }

  // What happened at that time: the phase or fault it lies in, and the events near it.
  around(t) {
    const [from, to] = this.window;
    const near = ((to - from) * NEAR_PX) / (this.charts[0]?.plot.width || 600);
    return [
      ...this.span.bands.filter((band) => t >= band.from && t <= band.to).map((band) => band.text),
      ...this.span.marks.filter((mark) => Math.abs(mark.t - t) <= near).slice(0, 4).map((mark) => mark.text),
    ].filter(Boolean);
  }
}

class Chart {
  constructor(group, element, { label, format = amount, scale = "linear", height = 190, unit = 1 }) {
    Object.assign(this, { group, element, label, format, height, unit, lines: [], wish: scale, log: scale === "log", hidden: new Set() });
    this.plot = { left: LEFT, top: TOP, width: 1, height: 1 };
    element.classList.add("time-chart");
    this.legend = Object.assign(document.createElement("div"), { className: "legend" });
    this.stage = Object.assign(document.createElement("div"), { className: "stage", tabIndex: 0 });
    this.stage.setAttribute("role", "slider");
    this.stage.setAttribute("aria-label", `${label}: time of the cursor`);
    this.stage.setAttribute("aria-valuenow", "0");
    this.stage.style.height = `${height}px`;
    this.canvas = document.createElement("canvas");
    this.over = document.createElement("canvas");
    this.stage.append(this.canvas, this.over);
    element.replaceChildren(this.legend, this.stage);
    if (scale === "auto") this.#addSwitch();
    this.entries = new Map();
    this.#listen();
    this.seen = false; // what is scrolled out of sight is not drawn
    this.width = 0;
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.draw();
    }).observe(this.stage);
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      if (this.seen) this.draw();
    }, { rootMargin: "100px" }).observe(this.stage);
  }

  #addSwitch() {
    this.button = Object.assign(document.createElement("button"), { type: "button", className: "scale", title: "logarithmic or linear axis" });
    this.button.addEventListener("click", () => {
      this.wish = this.log ? "linear" : "log";
      this.later();
    });
    this.legend.append(this.button);
  }

  take(lines) {
    this.lines = lines.filter((line) => line.y.some((value) => value !== null));
    const shown = this.lines.filter((line) => !line.quiet);
    const names = new Set(shown.map((line) => line.name));
    for (const [name, entry] of this.entries) {
      if (names.has(name)) continue;
      entry.remove(); // a process that is gone
      this.entries.delete(name);
    }
    shown.forEach((line, index) => {
      line.colour = line.hue ?? hueOf(line.name, index);
      if (!this.entries.has(line.name)) this.#addEntry(line);
      this.entries.get(line.name).style.setProperty("--hue", `var(--${line.colour})`);
    });
    for (const line of this.lines) line.colour ??= "grey";
  }

  #addEntry(line) {
    const entry = Object.assign(document.createElement("button"), { type: "button", title: meaningOf(line.name) });
    entry.setAttribute("aria-pressed", "true");
    entry.append(document.createElement("i"), `${line.name} `, document.createElement("b"));
    entry.addEventListener("click", () => {
      if (!this.hidden.delete(line.name)) this.hidden.add(line.name);
      entry.setAttribute("aria-pressed", String(!this.hidden.has(line.name)));
      this.later();
    });
    this.entries.set(line.name, entry);
    this.legend.insertBefore(entry, this.button ?? null);
  }

  // Whether new points would be seen: in a long window a second is less than a pixel.
  get due() {
    if (performance.now() - this.drawnAt < this.group.restMs) return false;
    const [from, to] = this.group.window;
    const moved = ((to - this.drawnTo) / (to - from || 1)) * this.plot.width;
    return !(moved >= 0 && moved < 1 && from >= this.drawnFrom);
  }

  later(unchanged = false) {
    this.stale ||= !unchanged;
    this.wanted ??= requestAnimationFrame(() => {
      this.wanted = undefined;
      if (this.stale) this.draw();
      else this.tell();
    });
  }

  laterCursor() {
    this.wantedCursor ??= requestAnimationFrame(() => {
      this.wantedCursor = undefined;
      this.drawCursor();
    });
  }

  x(t) {
    const [from, to] = this.group.window;
    return this.plot.left + ((t - from) / (to - from || 1)) * this.plot.width;
  }

  y(value) {
    const { top, height } = this.plot;
    if (!this.log) return top + height * (1 - value / this.high);
    const room = height - FOOT;
    if (value < this.low) return top + height - (FOOT * Math.max(0, value)) / this.low / 2;
    return top + room * (1 - Math.log(value / this.low) / Math.log(this.high / this.low));
  }

  // The part of a line that is in sight, with one point beyond each edge.
  #inSight(line) {
    const [from, to] = this.group.window;
    return [Math.max(0, firstFrom(line.t, from) - 1), Math.min(line.t.length, firstFrom(line.t, to) + 2)];
  }

  #range() {
    let most = 0, least = Infinity;
    const middles = [];
    let leap = 1;
    for (const line of this.lines) {
      if (this.hidden.has(line.name)) continue;
      const [first, end] = this.#inSight(line);
      const values = [];
      for (let i = first; i < end; i += 1) if (line.y[i] > 0) values.push(line.y[i]);
      if (!values.length) continue;
      values.sort((a, b) => a - b);
      const [middle, top] = [values[values.length >> 1], values[values.length - 1]];
      middles.push(middle);
      leap = Math.max(leap, top / middle);
      most = Math.max(most, top);
      least = Math.min(least, values[Math.floor(values.length * 0.02)]);
    }
    const apart = middles.length ? Math.max(...middles) / Math.min(...middles) : 1;
    if (this.wish !== "auto") this.log = this.wish === "log";
    else this.log = this.log ? apart > 4 || leap > 5 : apart >= 8 || leap >= 10;
    if (!most) [most, this.log] = [1, false];
    const { unit } = this; // an axis of bytes has round numbers of mebibytes
    this.high = step125((most * 1.02) / unit, true) * unit;
    this.low = step125(Math.max(least, most / 1e5) / unit, false) * unit;
    if (this.log && this.high / this.low < 10) this.low = step125(this.high / unit / 10, false) * unit;
  }

  draw() {
    const { width } = this;
    if (!width || !this.seen || document.hidden) return this.tell();
    [this.drawnFrom, this.drawnTo] = this.group.window;
    this.drawnAt = performance.now();
    this.stale = false;
    this.plot = { left: LEFT, top: TOP, width: width - LEFT - RIGHT, height: this.height - TOP - BOTTOM };
    const pen = sized(this.canvas, width, this.height);
    this.#range();
    if (this.button) this.button.textContent = this.log ? "log" : "linear";
    pen.font = "11px system-ui, sans-serif";
    this.#drawBands(pen);
    this.#drawAxes(pen);
    pen.save();
    pen.beginPath();
    pen.rect(this.plot.left, this.plot.top - 1, this.plot.width, this.plot.height + 2);
    pen.clip();
    for (const line of this.lines) if (!this.hidden.has(line.name)) this.#drawLine(pen, line);
    pen.restore();
    this.#drawMarks(pen);
    this.drawCursor();
  }

  #drawBands(pen) {
    const { top, height, left, width } = this.plot;
    this.group.span.bands.forEach((band, index) => {
      const [x0, x1] = [Math.max(left, this.x(band.from)), Math.min(left + width, this.x(band.to))];
      if (x1 <= x0) return;
      if (band.bad) [pen.fillStyle, pen.globalAlpha] = [this.group.colour("bad"), 0.12];
      else pen.fillStyle = index % 2 ? this.group.colour("shade") : "transparent";
      pen.fillRect(x0, top, x1 - x0, height);
      pen.globalAlpha = 1;
      pen.fillStyle = this.group.colour(band.bad ? "bad" : "quiet");
      if (band.text) pen.fillText(fitted(pen, band.text, x1 - x0 - 6), x0 + 3, band.bad ? top + 11 : top - 4);
    });
  }

  #drawAxes(pen) {
    const { top, height, left, width } = this.plot;
    const [from, to] = this.group.window;
    pen.strokeStyle = this.group.colour("line");
    pen.lineWidth = 1;
    const rule = (x0, y0, x1, y1) => {
      pen.beginPath();
      pen.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
      pen.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
      pen.stroke();
    };
    pen.fillStyle = this.group.colour("quiet");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    let last = Infinity;
    const values = this.log ? logTicks(this.low / this.unit, this.high / this.unit) : linearTicks(this.high / this.unit, height);
    for (const value of values.map((number) => number * this.unit)) {
      const y = this.y(value);
      rule(left, y, left + width, y);
      if (last - y > 12) {
        pen.fillText(value ? this.format(value) : "0", left - 5, y);
        last = y;
      }
    }
    if (this.log) { // the break between 0 and the smallest decade
      rule(left, top + height, left + width, top + height);
      pen.fillText("0", left - 5, top + height);
      pen.strokeStyle = this.group.colour("quiet");
      for (const y of [top + height - FOOT / 2 - 1.5, top + height - FOOT / 2 + 1.5]) rule(left - 4, y + 2, left + 4, y - 2);
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    pen.fillStyle = this.group.colour("quiet");
    for (const t of this.group.ticks ? this.group.ticks(from, to, width / 75) : linearSteps(from, to, width / 110)) {
      const x = this.x(t);
      pen.strokeStyle = this.group.colour("line");
      rule(x, top + height, x, top + height + 4);
      const text = this.group.time(t, to - from);
      const half = pen.measureText(text).width / 2;
      if (x - half >= 0 && x + half <= left + width + RIGHT) pen.fillText(text, x, top + height + 6);
    }
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
  }

  #drawLine(pen, line) {
    const [first, end] = this.#inSight(line);
    const colour = this.group.colour(line.colour);
    pen.strokeStyle = colour;
    pen.lineWidth = line.width ?? 1.7;
    pen.globalAlpha = line.quiet ? 0.45 : (line.alpha ?? 1);
    pen.setLineDash(line.dash ? [3, 3] : []);
    pen.lineJoin = "round";
    pen.beginPath();
    let before = null, start = null;
    const foot = this.plot.top + this.plot.height;
    const area = line.fill ? new Path2D() : null;
    const close = () => {
      if (!area || start === null) return;
      area.lineTo(before[0], foot);
      area.lineTo(start, foot);
    };
    for (let i = first; i < end; i += 1) {
      if (line.y[i] === null || line.y[i] === undefined) {
        close();
        [before, start] = [null, null];
        continue;
      }
      const at = [this.x(line.t[i]), this.y(line.y[i])];
      if (before === null) {
        pen.moveTo(...at);
        if (area) area.moveTo(at[0], foot), area.lineTo(...at);
        start = at[0];
        if (line.dots || i + 1 >= end || (line.y[i + 1] ?? null) === null) pen.rect(at[0] - 0.5, at[1] - 0.5, 1, 1);
      } else {
        if (line.step) pen.lineTo(at[0], before[1]);
        pen.lineTo(...at);
        area?.lineTo(...at);
      }
      before = at;
    }
    close();
    pen.stroke();
    if (area) [pen.globalAlpha, pen.fillStyle] = [0.12, colour], pen.fill(area);
    pen.globalAlpha = 1;
    pen.setLineDash([]);
  }

  #drawMarks(pen) {
    const { top, height, left, width } = this.plot;
    const [from, to] = this.group.window;
    const marks = this.group.span.marks.filter((mark) => mark.t >= from && mark.t <= to);
    for (const mark of marks) {
      const x = Math.min(left + width, this.x(mark.t));
      pen.fillStyle = pen.strokeStyle = this.group.colour(mark.mood || "quiet");
      pen.beginPath();
      pen.moveTo(x - 4, top);
      pen.lineTo(x + 4, top);
      pen.lineTo(x, top + 6);
      pen.fill();
      if (marks.length > MANY) continue;
      pen.setLineDash([2, 4]);
      pen.globalAlpha = 0.6;
      pen.beginPath();
      pen.moveTo(x, top + 6);
      pen.lineTo(x, top + height);
      pen.stroke();
      pen.globalAlpha = 1;
      pen.setLineDash([]);
    }
  }

  // The time that is read: the cursor's, else the latest in sight; and whether there is a cursor.
  get #moment() {
    const { cursor } = this.group;
    const [from, to] = this.group.window;
    const inside = cursor !== null && cursor >= from && cursor <= to;
    return [inside ? cursor : to, inside];
  }

  // Write the values at that time into the legend and for screen readers, also of a chart that is out of sight.
  tell() {
    const [from, to] = this.group.window;
    const [at, inside] = this.#moment;
    const told = [];
    for (const line of this.lines) {
      if (line.quiet) continue;
      const index = indexAt(line.t, at, line.step);
      const value = index < 0 ? null : line.y[index];
      const note = inside ? (line.notes?.[index] ?? "") : "";
      const text = value === null ? UNKNOWN : this.format(value);
      const entry = this.entries.get(line.name);
      if (entry.lastChild.textContent !== text) entry.lastChild.textContent = text;
      entry.title = note || meaningOf(line.name);
      told.push(`${line.name} ${text}${note ? `, ${note}` : ""}`);
    }
    this.stage.setAttribute("aria-valuemin", "0");
    this.stage.setAttribute("aria-valuemax", String(Math.round(to - from)));
    this.stage.setAttribute("aria-valuenow", String(Math.round(at - from)));
    this.stage.setAttribute("aria-valuetext", `${[this.group.time(at), ...this.group.around(at)].join(", ")}: ${told.join("; ")}`);
  }

  drawCursor() {
    this.tell();
    if (!this.width || !this.seen) return;
    const [at, inside] = this.#moment;
    this.over.hidden = !inside && !this.dragged; // an empty layer would be part of every frame
    if (this.over.hidden) return;
    const pen = sized(this.over, this.width, this.height);
    if (inside) {
      pen.strokeStyle = this.group.colour("quiet");
      pen.beginPath();
      pen.moveTo(Math.round(this.x(at)) + 0.5, this.plot.top);
      pen.lineTo(Math.round(this.x(at)) + 0.5, this.plot.top + this.plot.height);
      pen.stroke();
    }
    for (const line of this.lines) {
      const index = indexAt(line.t, at, line.step);
      if (!inside || line.quiet || index < 0 || line.y[index] === null || this.hidden.has(line.name)) continue;
      pen.fillStyle = this.group.colour(line.colour);
      pen.beginPath();
      pen.arc(this.x(line.step ? at : line.t[index]), this.y(line.y[index]), 3, 0, 7);
      pen.fill();
    }
    if (this.dragged) {
      pen.fillStyle = this.group.colour("blue");
      pen.globalAlpha = 0.15;
      const [a, b] = this.dragged;
      pen.fillRect(Math.min(a, b), this.plot.top, Math.abs(b - a), this.plot.height);
    }
  }

  #timeAt(event) {
    const [from, to] = this.group.window;
    const x = event.clientX - this.stage.getBoundingClientRect().left;
    const share = Math.min(1, Math.max(0, (x - this.plot.left) / this.plot.width));
    return [from + share * (to - from), this.plot.left + share * this.plot.width];
  }

  #listen() {
    const { stage, group } = this;
    let begun = null;
    stage.addEventListener("pointerdown", (event) => {
      if (event.button === 0) begun = this.#timeAt(event);
    });
    stage.addEventListener("pointermove", (event) => {
      const [t, x] = this.#timeAt(event);
      const far = begun !== null && Math.abs(x - begun[1]) > 4;
      if (far && !stage.hasPointerCapture(event.pointerId)) stage.setPointerCapture(event.pointerId);
      this.dragged = far ? [begun[1], x] : null;
      group.point(t);
    });
    stage.addEventListener("pointerup", (event) => {
      const [t] = this.#timeAt(event);
      const range = this.dragged && [begun[0], t];
      begun = this.dragged = null;
      if (range) group.zoom(range);
    });
    stage.addEventListener("pointercancel", () => {
      begun = this.dragged = null;
    });
    stage.addEventListener("pointerleave", () => begun || group.point(null));
    stage.addEventListener("dblclick", () => group.zoom(null));
    stage.addEventListener("blur", () => stage.matches(":hover") || group.point(null));
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const [from, to] = group.window;
      const at = group.cursor === null || group.cursor < from || group.cursor > to ? to : group.cursor;
      const by = (to - from) * (event.shiftKey ? 0.1 : 0.01);
      const around = (share) => group.zoom([at - (at - from) * share, at + (to - at) * share]);
      const acts = {
        ArrowLeft: () => group.point(Math.max(from, at - by)), ArrowRight: () => group.point(Math.min(to, at + by)),
        Home: () => group.point(from), End: () => group.point(to), "+": () => around(0.5), "-": () => around(2),
        Escape: () => group.zoom(null),
      };
      if (!acts[event.key]) return;
      event.preventDefault();
      acts[event.key]();
    });
  }
}

function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

function fitted(pen, text, room) {
  if (room < 12) return "";
  let cut = text;
  while (cut && pen.measureText(cut).width > room) cut = cut.slice(0, -1);
  return cut === text ? text : cut.length > 2 ? `${cut.slice(0, -1)}…` : "";
}

// The first index whose time is not before `t`.
function firstFrom(times, t) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < t) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The index of the value at time `t`: of a step the one in force, else the nearest; -1 without one.
export function indexAt(times, t, step = false) {
  const next = firstFrom(times, t);
  if (step) return times[next] === t ? next : next - 1;
  if (next >= times.length) return times.length - 1;
  return next > 0 && t - times[next - 1] < times[next] - t ? next - 1 : next;
}

function step125(value, up) {
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  const steps = [1, 2, 5, 10].map((step) => step * power);
  return up ? steps.find((step) => step >= value * 0.999) : steps.findLast((step) => step <= value * 1.001);
}

function logTicks(low, high) {
  const ticks = [];
  const wide = high / low > 200;
  for (let power = 10 ** Math.floor(Math.log10(low) + 1e-9); power <= high * 1.001; power *= 10) {
    for (const step of wide ? [1] : [1, 2, 5]) {
      const value = step * power;
      if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
    }
  }
  return ticks;
}

function linearTicks(high, height) {
  const step = step125(high / Math.max(2, height / 40), true);
  return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, n) => n * step);
}

function linearSteps(from, to, count) {
  const step = step125((to - from) / Math.max(1, count), true);
  const steps = [];
  for (let n = Math.ceil(from / step - 1e-9); n * step <= to + 1e-9; n += 1) steps.push(n * step);
  return steps;
}

const CLOCK_STEPS_MS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].map((seconds) => seconds * 1000);

// Round times of the day between two moments, for an axis in milliseconds since the epoch.
export function clockTicks(from, to, most = 6) {
  const step = CLOCK_STEPS_MS.find((size) => (to - from) / size <= most) ?? 1_800_000;
  const ticks = [];
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) ticks.push(t);
  return ticks;
}
