"use strict";
// Draws the timeline, in the page's colours: up to five charts over one time axis that zoom together.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const highest = (values) => values.reduce((most, value) => Math.max(most, value ?? 0), 1);

  const line = (name, x, y, hue, extra = {}) => ({
    type: "scatter", mode: "lines", name, x, y, connectgaps: false,
    line: { color: colour(hue), width: 1.6, ...extra.line },
    hovertemplate: `%{y:,.4~g} <b>${name}</b><extra></extra>`, ...extra.trace,
  });

  function traces(chart) {
    const t = data.t;
    if (chart === "depth") {
      return [
        line("depth", t, data.depth, "blue", { trace: { fill: "tozeroy", fillcolor: colour("shade") } }),
        line("ready", t, data.ready, "grey", { line: { width: 1 } }),
      ];
    }
    if (chart === "rates") {
      const reason = { text: data.reason, hovertemplate: "%{y:,.4~g} <b>allowed</b> %{text}<extra></extra>" };
      const beyond = ratesRange() ? ` (${Math.round(highest(data.offered))}, beyond the frame)` : "";
      return [
        line(`offered${beyond}`, t, data.offered, "grey", { line: { dash: "dot" } }),
        line("capacity", data.capacity_t, data.capacity, "grey", { line: { shape: "hv", width: 5 }, trace: { opacity: 0.35 } }),
        line("allowed", t, data.allowed, "orange", { line: { width: 1.2 }, trace: reason }),
        line("published", t, data.published, "blue"),
        line("processed", t, data.processed, "green", { line: { width: 2.2 } }),
      ];
    }
    if (chart === "wait") {
      const hues = { max: "grey", p99: "orange", p95: "blue", p50: "green" };
      const measured = Object.keys(hues).map((q) => line(q, data.wait_t, data.wait[q], hues[q], { trace: { mode: "lines+markers", marker: { size: 3 } } }));
      return [...measured, line("best possible p99", data.bound_t, data.bound, "orange", { line: { dash: "dot", width: 1.2 } })];
    }
    if (chart === "in_flight") return [line("in flight", t, data.in_flight, "blue")];
    const hues = ["blue", "green", "orange", "violet", "grey"];
    return Object.keys(data.memory).map((id, index) => line(id, t, data.memory[id], hues[index % hues.length]));
  }

  // An offered load far above everything else would flatten what there is to see: it stays in the legend and beyond the
  // frame, and a double click shows all of it.
  function ratesRange() {
    const most = highest([...data.published, ...data.processed, ...data.capacity]);
    return highest(data.offered) > 2.5 * most ? [0, 1.3 * most] : undefined;
  }

  function layout(chart) {
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), tickfont: { color: colour("dim") } };
    const y = { ...axis, rangemode: "tozero", fixedrange: false };
    const note = (part, text, where) => ({
      x: part.start, xref: "x", yref: "paper", xanchor: "left", text, showarrow: false, font: { size: 11, color: colour("dim") }, ...where,
    });
    const notes = [
      ...data.phases.map((phase) => note(phase, phase.name, { y: 1, yanchor: "bottom" })),
      ...data.faults.map((fault) => note(fault, `⚡ ${fault.name}`, { y: 1, yanchor: "top", font: { size: 11, color: colour("bad") } })),
    ];
    const area = (part, look) => ({
      type: "rect", xref: "x", yref: "paper", x0: part.start, x1: part.end, y0: 0, y1: 1, layer: "below", line: { width: 0 }, ...look,
    });
    if (chart === "wait") { y.type = "log"; y.rangemode = "normal"; y.dtick = 1; }
    if (chart === "rates") y.range = ratesRange();
    return {
      margin: { l: 48, r: 8, t: 20, b: 28 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink"), family: "system-ui, sans-serif", size: 12 },
      hovermode: "x unified", hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
      showlegend: chart !== "in_flight", legend: { orientation: "h", y: -0.12, yanchor: "top", font: { size: 12 } },
      xaxis: { ...axis, range: [0, data.length_s], ticksuffix: " s", hoverformat: ".1f" }, yaxis: y,
      shapes: [
        ...data.phases.map((phase, index) => area(phase, { fillcolor: index % 2 ? colour("shade") : "rgba(0,0,0,0)" })),
        ...data.faults.map((fault) => area(fault, { fillcolor: colour("bad"), opacity: 0.12 })),
      ],
      annotations: notes,
    };
  }

  // A simulation has neither memory nor messages in flight: leave out empty charts.
  const names = ["depth", "rates", "wait", "in_flight", "memory"].filter((name) => {
    const measured = traces(name).some((trace) => trace.y.some((value) => value !== null));
    if (!measured) document.getElementById(name).closest("figure").remove();
    return measured;
  });
  const options = { responsive: true, displayModeBar: false, scrollZoom: false };
  const draw = () => names.forEach((name) => Plotly.react(name, traces(name), layout(name), options));
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  let following = false; // zooming one chart zooms the others, which must not zoom it in turn
  names.forEach((name) => document.getElementById(name).on("plotly_relayout", async (change) => {
    const zoomed = "xaxis.range[0]" in change || "xaxis.autorange" in change;
    if (following || !zoomed) return;
    following = true;
    const range = "xaxis.autorange" in change ? [0, data.length_s] : [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    await Promise.all(names.map((other) => Plotly.relayout(other, { "xaxis.range": range })));
    following = false;
  }));
})();
