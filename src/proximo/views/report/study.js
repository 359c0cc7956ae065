"use strict";
// A search of `proximo tune`: what mattered, what each trial came to, and each setting against the return.

function studySection(study) {
  const figures = [figure("plot-trials", "trials", "What each trial came to", () => trialsFigure(study))];
  if (study.importance.length) figures.unshift(figure("plot-importance", "importance", "How much each setting mattered", () => importanceFigure(study)));
  const each = study.settings.map((setting, i) => figure(`plot-drawn-${i}`, `drawn ${setting.name}`, setting.name, () => drawnFigure(study, setting)));
  return [element("h2", {}, "The search"), element("div", { class: "grid" }, ...figures), element("h2", {}, "Settings of the trials"), element("div", { class: "grid" }, ...each)];
}

function importanceFigure(study) {
  const layout = baseLayout("share of the importance, %", "");
  Object.assign(layout, { hovermode: "closest", margin: { ...layout.margin, l: 180 } });
  layout.xaxis.rangemode = "tozero";
  layout.yaxis.nticks = 0;
  const names = study.importance.map(([name]) => plain(name));
  const trace = { type: "bar", orientation: "h", y: names, x: study.importance.map(([, share]) => 100 * share),
    marker: { color: palette()[0] }, hovertemplate: "%{y}: %{x:.3~g}%<extra></extra>" };
  return { traces: [trace], layout, height: Math.max(160, 80 + 28 * names.length) };
}

// Whole trials as dots, those that were ended early as crosses.
function points(study, across, said) {
  return [true, false].map((whole) => {
    const trials = study.trials.filter((trial) => trial.whole === whole && across(trial) !== undefined);
    return { type: "scatter", mode: "markers", x: trials.map(across), y: trials.map((trial) => trial.value), name: whole ? "whole" : "ended early",
      text: trials.map((trial) => `trial ${trial.number}`), marker: { symbol: whole ? "circle" : "x", size: 7, color: palette()[whole ? 0 : 5] },
      hovertemplate: `%{text}<br>${said}return %{y:.4~g}<extra></extra>` };
  });
}

const marks = () => [["whole", palette()[0]], ["ended early", palette()[5]]];

function trialsFigure(study) {
  const layout = baseLayout("number of the trial", "return, reward per episode");
  layout.hovermode = "closest";
  const whole = study.trials.filter((trial) => trial.whole);
  let best = -Infinity;
  const line = { type: "scatter", mode: "lines", x: whole.map((trial) => trial.number), y: whole.map((trial) => (best = Math.max(best, trial.value))),
    line: { shape: "hv", width: 1.6, color: css("--ink") }, hoverinfo: "skip" };
  return { traces: [line, ...points(study, (trial) => trial.number, "")], layout, legend: [...marks(), ["best so far", css("--ink")]] };
}

function drawnFigure(study, setting) {
  const layout = baseLayout(plain(setting.name) + (setting.unit ? `, ${setting.unit}` : ""), "return, reward per episode");
  layout.hovermode = "closest";
  const traces = points(study, (trial) => trial.drawn[setting.name], "%{x:.3~g}, ");
  if (setting.log) Object.assign(layout.xaxis, { type: "log", ...decades(rangeOf(traces.flatMap((trace) => trace.x), true)) });
  else layout.xaxis.tickformat = SHORT;
  return { traces, layout, legend: marks() };
}
