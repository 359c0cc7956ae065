"use strict";
// The page while runs go on: word of a change comes from the server, then the data are fetched and shown in place.

let chosen = []; // names of the runs that the reader has chosen to draw; the server chooses where there are none

function overviewTable() {
  const head = element("tr", {}, ...["draw", "run", "state", "steps", "result", "course", "health"].map((text) => element("th", {}, text)));
  const rows = data.overview.map((run, i) => {
    const box = element("input", { type: "checkbox", id: `draw-${i}`, checked: run.drawn, "aria-label": `draw ${run.name}`, onchange: choose });
    return element("tr", {}, element("td", {}, box), element("td", { class: "words" }, run.name), element("td", { class: "words" }, run.state),
      element("td", { class: "number" }, run.steps), element("td", { class: "number" }, run.result), element("td", {}, sparkline(run.spark)),
      element("td", {}, element("span", { class: `tag ${run.health}` }, run.health)));
  });
  return element("div", { class: "scroll", id: "overview" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function choose(event) {
  const names = data.overview.filter((_, i) => document.getElementById(`draw-${i}`).checked).map((run) => run.name);
  if (names.length) {
    chosen = names;
    refresh();
  } else event.target.checked = true; // at least one run is drawn
}

function sparkline(values) {
  const space = "http://www.w3.org/2000/svg", width = 120, height = 22;
  const drawing = document.createElementNS(space, "svg");
  for (const [name, value] of [["width", width], ["height", height], ["role", "img"], ["aria-label", "course of the result"]]) drawing.setAttribute(name, value);
  if (values.length < 2) return drawing;
  const [low, high] = rangeOf(values, false);
  const points = values.map((v, i) => `${((i * width) / (values.length - 1)).toFixed(1)},${(height - ((v - low) / (high - low)) * height).toFixed(1)}`);
  const line = document.createElementNS(space, "polyline");
  for (const [name, value] of [["points", points.join(" ")], ["fill", "none"], ["stroke", "currentColor"], ["stroke-width", 1.5]]) line.setAttribute(name, value);
  drawing.append(line);
  return drawing;
}

// What the page is made of: where it is the same as before, only numbers and curves change.
function shape(page) {
  return JSON.stringify([page.runs.map((run) => [run.folder, run.result, !!run.ratio, !!run.health, !!run.samples.length]), page.sections, page.overview.map((run) => run.name), page.settings]);
}

let fetching = false, again = false;
async function refresh() {
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  try {
    const answer = await fetch(`/data?${new URLSearchParams(chosen.map((name) => ["run", name]))}`);
    if (answer.status === 404) { // a run that was chosen is gone: the others stay chosen
      const there = new Set((await (await fetch("/data")).json()).overview.map((run) => run.name));
      chosen = chosen.filter((name) => there.has(name));
      again = true;
    } else if (answer.ok) await show(await answer.json());
  } catch (error) {
    tell("the server does not answer");
  }
  fetching = false;
  if (again) {
    again = false;
    refresh();
  }
}

async function show(page) {
  const same = shape(page) === shape(data), active = document.activeElement && document.activeElement.id;
  const scrolled = tables().map((table) => table && [table.scrollLeft, table.scrollTop]);
  data = page;
  let drawn;
  if (same) {
    document.getElementById("headline").parentElement.replaceWith(headlines());
    const overview = document.getElementById("overview");
    if (overview) overview.replaceWith(overviewTable());
    document.getElementById("notes").replaceWith(notes());
    if (refill) refill();
    tell(`live, ${data.made}`);
    drawn = redraw();
  } else drawn = build();
  tables().forEach((table, i) => {
    if (table && scrolled[i]) [table.scrollLeft, table.scrollTop] = scrolled[i];
  });
  if (active && document.getElementById(active)) document.getElementById(active).focus();
  await drawn;
}

// What is made anew, and may be scrolled.
function tables() {
  return [document.getElementById("overview"), document.getElementById("headline").parentElement];
}

function tell(text) {
  document.getElementById("made").textContent = text;
}

function connect() {
  const source = new EventSource("/events");
  let first = true;
  source.onmessage = () => {
    if (!first || document.getElementById("made").textContent.startsWith("connection")) refresh();
    first = false;
  };
  source.onerror = () => tell("connection lost: is `proximo watch` still running?");
}
