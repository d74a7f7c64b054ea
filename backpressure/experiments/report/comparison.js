"use strict";
// Draws a comparison, in the page's colours: a point per law for the trade-off, and a line per law over time.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const hues = ["blue", "orange", "green", "violet", "grey", "bad", "ink", "warn", "dim"];
  const hue = (index) => colour(hues[index % hues.length]);

  const axis = () => ({ gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), tickfont: { color: colour("dim") } });
  const layout = (x, y) => ({
    margin: { l: 56, r: 12, t: 12, b: 36 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: colour("ink"), size: 12 }, hovermode: "closest",
    legend: { orientation: "h", y: -0.12, yanchor: "top", font: { size: 12 } },
    xaxis: { ...axis(), ...x }, yaxis: { ...axis(), ...y },
  });

  const most = Math.max(1, ...data.capacities.flatMap((capacity) => capacity.capacity));

  // Names stand beside their points where there is space, above and below in turn, since points may be close together.
  const waits = data.points.map((point) => Math.log(point.wait_ms));
  const middle = (Math.min(...waits) + Math.max(...waits)) / 2;
  const beside = (point, index) => `${index % 2 ? "bottom" : "top"} ${Math.log(point.wait_ms) > middle ? "left" : "right"}`;

  function draw() {
    const points = data.points.map((point, index) => ({
      type: "scatter", mode: "markers+text", name: point.law, x: [point.wait_ms], y: [point.used],
      text: [point.law], textposition: beside(point, index), textfont: { color: colour("dim"), size: 11 }, cliponaxis: false,
      marker: {
        size: 13, color: hue(point.hue), line: { width: 2, color: hue(point.hue) },
        symbol: point.law === data.oracle ? "star" : point.on_front ? "circle" : "circle-open",
      },
      hovertemplate: `<b>${point.law}</b><br>%{y:.1f} % used<br>p99 wait %{x:,.4~g} ms<extra></extra>`,
    }));
    document.getElementById("no-points").hidden = points.length > 0;
    Plotly.react("pareto", points, {
      ...layout({ type: "log", title: { text: "p99 queue wait, ms" }, dtick: 1 }, { title: { text: "capacity used, %" } }), showlegend: false,
    }, { displayModeBar: false, responsive: true });
    for (const chart of ["depth", "processed", "allowed"]) {
      const lines = data.laws.map((law, index) => ({
        type: "scatter", mode: "lines", name: law.law, x: law.t, y: law[chart], line: { color: hue(index), width: 1.5 },
        hovertemplate: `%{y:,.4~g} <b>${law.law}</b><extra></extra>`,
      }));
      if (chart !== "depth") {
        lines.unshift(...data.capacities.map((capacity, index) => ({
          type: "scatter", mode: "lines", name: capacity.law, x: capacity.t, y: capacity.capacity, opacity: 0.35,
          line: { color: data.capacities.length > 1 ? hue(index) : colour("grey"), width: 5, shape: "hv" }, hoverinfo: "skip",
        })));
      }
      const y = chart === "depth" ? { type: "log", dtick: 1 } : { rangemode: "tozero", range: [0, 1.6 * most] };
      Plotly.react(chart, lines, layout({ range: [0, data.length_s], ticksuffix: " s" }, y), { displayModeBar: false, responsive: true });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
