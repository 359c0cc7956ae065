"use strict";
// Draws one episode. Everything that comes from the run is set as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ROWS = [
  ["reward", [["reward", "reward"]]],
  ["value and return", [["value", "value"], ["return that followed", "returned"]]],
  ["δ", [["δ", "delta"]]],
  ["advantage", [["advantage (GAE)", "advantage"]]],
  ["ratio", [["ratio to the policy before", "ratio"]]],
].filter(([, lines]) => lines.every(([, name]) => data.columns[name]));
const COLOURS = { reward: "#0072b2", value: "#d55e00", returned: "#009e73", delta: "#cc79a7", advantage: "#e69f00", ratio: "#56b4e9" };
const ROW = 150, GAP = 22;

function paragraph(text, kind = "p", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function strip() {
  const made = paragraph("", "div", "film");
  for (const [step, source] of data.pictures) {
    const picture = document.createElement("img");
    Object.assign(picture, { src: source, alt: `step ${step}` });
    const one = paragraph("", "div");
    one.append(picture, paragraph(`step ${step}`, "div", "soft"));
    made.append(one);
  }
  return made;
}

function figure() {
  const steps = data.columns.reward.length, inner = ROWS.length * ROW, height = inner + 56, grid = css("--line");
  const layout = {
    height, width: plot.clientWidth, margin: { l: 64, r: 12, t: 12, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--ink"), size: 12 }, showlegend: false, hovermode: "x",
    xaxis: { range: [-0.5, steps - 0.5], title: { text: "step" }, dtick: steps > 6 ? undefined : 1, anchor: `y${ROWS.length}`, gridcolor: grid, zeroline: false },
    shapes: [{ type: "line", xref: "x", yref: "paper", x0: data.worst, x1: data.worst, y0: 0, y1: 1, line: { color: css("--red"), width: 2, dash: "dot" } }],
  };
  const traces = [];
  ROWS.forEach(([title, lines], row) => {
    const top = 1 - (row * ROW + GAP / 2) / inner, axis = row ? `${row + 1}` : "";
    layout[`yaxis${axis}`] = { domain: [Math.max(0, top - (ROW - GAP) / inner), top], title: { text: title, font: { size: 11 } }, gridcolor: grid,
      zerolinecolor: grid, nticks: 4, type: title === "ratio" ? "log" : "linear" };
    for (const [name, column] of lines) {
      const y = data.columns[column];
      traces.push({ type: "scatter", mode: steps > 1 ? "lines" : "markers", y, name, xaxis: "x", yaxis: `y${axis}`, line: { color: COLOURS[column], width: 1.5 } });
      traces.push({ type: "scatter", mode: "markers", x: [data.worst], y: [y[data.worst]], name: "critic most wrong", hoverinfo: "skip", xaxis: "x", yaxis: `y${axis}`,
        marker: { color: css("--red"), size: 9, symbol: "diamond-open", line: { width: 2 } } });
    }
  });
  return { traces, layout };
}

const plot = document.createElement("div");
const legend = paragraph("", "div", "legend");
for (const [name, column] of ROWS.flatMap(([, lines]) => lines)) {
  const swatch = paragraph("", "span", "swatch");
  swatch.style.borderTopColor = COLOURS[column];
  const item = paragraph("", "span");
  item.append(swatch, name);
  legend.append(item);
}
document.getElementById("page").append(paragraph(data.title, "h1"), paragraph(data.about, "p", "soft"), paragraph(data.said), strip(), legend, plot,
  ...data.notes.map((note) => paragraph(note, "p", "soft")));

function draw() {
  const { traces, layout } = figure();
  return Plotly.react(plot, traces, layout, { responsive: false, displayModeBar: false }).then(() => (document.documentElement.dataset.drawn = "1"));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("resize", draw);
draw();
