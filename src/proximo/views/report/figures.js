"use strict";
// Traces and layouts for Plotly. Colours: Okabe & Ito's, which colour-blind people can tell apart; then dashes.

const LIGHT = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#6e7781"];
const DARK = ["#56b4e9", "#e69f00", "#1fc79a", "#cc79a7", "#f0e442", "#ff7f3f", "#d1b06b", "#a0a8b0"];
const palette = () => (luminance(css("--paper")) < 0.5 ? DARK : LIGHT);
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Tick labels and hovers never have more than five digits: 60k, 1.2M, 0.0123.
const SHORT = ".4~g";
const STEPS = ".4~s";
const SHARE = "share, 0 to 1"; // unit of what nothing lies beyond
const NAMES = 130; // pixels for the names of runs beside a figure
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;"); // Plotly reads some HTML in names

function styleOf(data, index) {
  const groups = data.groups.filter((group) => group.runs.length);
  if (groups.length === 1 || groups.length === data.runs.length) {
    return { color: palette()[index % 8], dash: DASHES[Math.floor(index / 8) % 5] };
  }
  const g = groups.findIndex((group) => group.runs.includes(index));
  return { color: palette()[g % 8], dash: DASHES[groups[g].runs.indexOf(index) % 5] };
}

function baseLayout(xTitle, yTitle) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
  const title = (text) => ({ text, font: { size: 12 }, standoff: 8 });
  return {
    font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 68, r: 14, t: 8, b: 42 }, // fixed: margins that fit themselves draw every figure twice
    showlegend: false,
    hovermode: "x",
    hoverlabel: { font: { size: 12 }, namelength: 24 },
    xaxis: { ...axis, title: title(xTitle), tickformat: STEPS, hoverformat: STEPS, nticks: 6 },
    yaxis: { ...axis, title: title(yTitle), hoverformat: SHORT, exponentformat: "power", nticks: 6 },
  };
}

function stepsTitle(runs) {
  return [...new Set(runs.map((run) => run.unit))].join(" or ") || "steps";
}

// The part of an axis that shows the values, with a margin; on a log axis in powers of ten.
function rangeOf(values, log) {
  const known = values.filter((v) => v !== null && (!log || v > 0)).map((v) => (log ? Math.log10(v) : v));
  if (!known.length) return log ? [-6, 0] : [0, 1];
  let low = Infinity, high = -Infinity;
  for (const v of known) { low = Math.min(low, v); high = Math.max(high, v); }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

function rangeFor(text, traces) {
  const [low, high] = rangeOf(traces.flatMap((trace) => trace.y), text.log);
  return text.unit === SHARE ? [Math.max(-0.04, low), Math.min(1.04, high)] : [low, high];
}

// Marks of a log axis: powers of ten, and as many numbers between them as there is room for.
function decades([low, high]) {
  const span = high - low, digits = span > 3 ? [1] : span > 1.2 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil(span / 6)), marks = [];
  for (let power = Math.floor(low); power <= high; power++) {
    if (power % every === 0) marks.push(...digits.map((digit) => digit * 10 ** power));
  }
  const inside = marks.filter((mark) => low <= Math.log10(mark) && Math.log10(mark) <= high);
  return inside.length > 1 ? marked(marks, 1) : marked(evenly(10 ** low, 10 ** high), 4);
}

const marked = (marks, digits) => ({ tickmode: "array", tickvals: marks, ticktext: marks.map((mark) => written(mark, digits)) });

// Some four round numbers, the same step apart: where an axis shows too little for powers of ten.
function evenly(low, high) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= rough), first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function written(mark, digits) {
  const rounded = Number(mark.toPrecision(digits));
  return rounded < 0.001 || rounded >= 1e5 ? rounded.toExponential().replace("e+", "e") : String(rounded);
}

// Where a metric is healthy: shaded amber and red beyond the health rules' limits, if they are in sight.
function bandShapes(band, range, log) {
  if (!band) return [];
  const [low, high, red] = band.map((v) => (v === null ? null : log ? Math.log10(v) : v));
  const shapes = [];
  const strip = (from, to, colour) => {
    const y0 = Math.max(from, range[0]), y1 = Math.min(to, range[1]);
    if (y1 <= y0) return;
    const at = (v) => (log ? 10 ** v : v);
    shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: at(y0), y1: at(y1), layer: "below",
      fillcolor: css(colour), opacity: 0.1, line: { width: 0 } });
  };
  strip(low ?? -Infinity, high ?? Infinity, "--green");
  if (low !== null) strip(-Infinity, low, "--amber");
  if (high !== null) strip(high, red ?? Infinity, "--amber");
  if (red !== null) strip(red, Infinity, "--red");
  return shapes;
}

// The course of one metric: a line for each run that is shown.
function lineFigure(data, shown, name) {
  const text = data.texts[name];
  const runs = shown.filter((i) => data.runs[i].series[name]);
  const traces = runs.map((i) => {
    const { x, y } = data.runs[i].series[name];
    const few = y.filter((v) => v !== null).length <= 60;
    const log = (v) => (text.log && v !== null && v <= 0 ? null : v);
    return { x, y: y.map(log), name: plain(data.runs[i].name), mode: few ? "lines+markers" : "lines", connectgaps: true,
      type: "scatter", marker: { size: 4 }, line: { ...styleOf(data, i), width: 1.6 } };
  });
  const layout = baseLayout(stepsTitle(runs.map((i) => data.runs[i])), text.unit);
  const range = rangeFor(text, traces);
  layout.yaxis.range = range;
  if (text.log) Object.assign(layout.yaxis, { type: "log", ...decades(range) });
  const bands = runs.map((i) => data.runs[i].series[name].band);
  const same = bands.every((band) => JSON.stringify(band) === JSON.stringify(bands[0]));
  layout.shapes = same && runs.length ? bandShapes(bands[0], range, text.log) : [];
  return { traces, layout };
}

// Learning curves of one task: seeds as thin lines, their interquartile mean with its interval above them.
function resultFigure(data, shown, task, name) {
  const members = shown.filter((i) => data.runs[i].task === task && data.runs[i].result === name);
  const figure = lineFigure(data, members, name);
  const several = data.groups.length > 1;
  figure.legend = [];
  for (const group of data.groups) {
    if (!group.curve || !group.curve.runs.every((i) => members.includes(i))) continue;
    for (const trace of figure.traces) {
      if (group.runs.some((i) => plain(data.runs[i].name) === trace.name)) {
        trace.opacity = 0.45;
        trace.line.width = 1;
      }
    }
    const color = several ? styleOf(data, group.runs[0]).color : css("--ink");
    const { x, y, low, high } = group.curve;
    const edge = { type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    figure.traces.push({ ...edge, x, y: low });
    figure.traces.push({ ...edge, x, y: high, fill: "tonexty", fillcolor: color + (color.length === 7 ? "33" : "") });
    figure.traces.push({ x, y, type: "scatter", mode: "lines", name: `IQM of ${group.curve.runs.length} seeds`, line: { color, width: 3 } });
    figure.legend.push([`interquartile mean of ${group.curve.runs.map((i) => data.runs[i].name).join(", ")}; 95 % interval`, color]);
  }
  figure.layout.yaxis.range = rangeFor(data.texts[name], figure.traces);
  return figure;
}

// The ratios of every update as a map, with the clip range as two lines.
function ratioFigure(data, index) {
  const run = data.runs[index], { x, z, edges, clipped } = run.ratio;
  const width = edges[1] - edges[0];
  const centres = [edges[0] - width / 2, ...edges.map((edge) => edge + width / 2)];
  const layout = baseLayout(run.unit, clipped ? "ratio, in clip ranges" : "ratio, in fifths");
  const marks = [-2, -1, 0, 1, 2];
  const names = clipped ? ["2 below", "1 - clip", "1", "1 + clip", "2 above"] : ["0.64", "0.8", "1", "1.2", "1.44"];
  Object.assign(layout.yaxis, { tickmode: "array", tickvals: marks, ticktext: names, range: [-2.2, 2.2] });
  layout.hovermode = "closest";
  layout.margin.l = 92;
  const line = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: css("--red"), width: 2, dash: "dash" } });
  layout.shapes = clipped ? [line(-1), line(1)] : [];
  const dark = luminance(css("--paper")) < 0.5;
  const scale = dark ? [[0, "#161b22"], [0.02, "#1d3a5f"], [0.3, "#56b4e9"], [1, "#ffffff"]]
    : [[0, "#f6f8fa"], [0.02, "#cfe3f5"], [0.3, "#0072b2"], [1, "#00263d"]];
  const trace = { type: "heatmap", x, y: centres, z, zmin: 0, zmax: 100, colorscale: scale, name: "",
    hovertemplate: "step %{x:.4~s}<br>%{z:.3~g}% of the samples<extra></extra>",
    colorbar: { thickness: 10, outlinewidth: 0, title: { text: "samples, %", side: "right", font: { size: 12 } } } };
  return { traces: [trace], layout, height: 300 };
}

function luminance(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// Share of the time that each phase took: a bar for each run.
function phaseFigure(data, shown) {
  const runs = shown.filter((i) => data.runs[i].phases && Object.keys(data.runs[i].phases).length).reverse();
  const phases = [...new Set(runs.flatMap((i) => Object.keys(data.runs[i].phases)))];
  const layout = baseLayout("share of the measured time, %", "");
  Object.assign(layout, { barmode: "stack", hovermode: "closest", margin: { ...layout.margin, l: NAMES } });
  layout.xaxis.range = [0, 100];
  layout.xaxis.tickformat = "";
  Object.assign(layout.yaxis, { type: "category", title: { text: "" }, nticks: 0, tickmode: "array",
    tickvals: runs, ticktext: runs.map((i) => shortened(data.runs[i].name)) });
  const traces = phases.map((phase, p) => ({
    type: "bar", orientation: "h", name: plain(phase), y: runs,
    x: runs.map((i) => {
      const all = Object.values(data.runs[i].phases).reduce((a, b) => a + b, 0);
      return all ? (100 * (data.runs[i].phases[phase] || 0)) / all : 0;
    }),
    marker: { color: palette()[p % 8] },
    hovertemplate: `${plain(phase)}: %{x:.3~g}%<extra></extra>`,
  }));
  const legend = phases.map((phase, p) => [phase, palette()[p % 8]]);
  return { traces, layout, legend, height: Math.max(120, 80 + 30 * runs.length) };
}

// Green, amber and red iterations: a strip for each run. Height tells the colours apart where hues do not.
function healthFigure(data, shown) {
  const runs = shown.filter((i) => data.runs[i].health).reverse();
  const layout = baseLayout(stepsTitle(runs.map((i) => data.runs[i])), "");
  layout.hovermode = "closest";
  Object.assign(layout.yaxis, { tickmode: "array", tickvals: runs.map((_, row) => row),
    ticktext: runs.map((i) => shortened(data.runs[i].name)), range: [-0.6, Math.max(0, runs.length - 1) + 0.6], showgrid: false });
  const words = ["green", "amber", "red"];
  const traces = words.map((word, colour) => {
    const x = [], y = [];
    runs.forEach((i, row) => data.runs[i].health.colour.forEach((c, k) => {
      if (c === colour) { x.push(data.runs[i].health.x[k]); y.push(row); }
    }));
    return { type: "scatter", mode: "markers", x, y, name: word, hovertemplate: `step %{x:.4~s}: ${word}<extra></extra>`,
      marker: { symbol: "line-ns", size: 8 + 5 * colour, line: { width: 2, color: css(`--${word}`) } } };
  });
  layout.margin.l = NAMES;
  const legend = words.map((word) => [word, css(`--${word}`)]);
  return { traces, layout, legend, height: Math.max(120, 80 + 28 * runs.length) };
}

function shortened(name) {
  return plain(name.length > 18 ? name.slice(0, 8) + "…" + name.slice(-9) : name);
}
