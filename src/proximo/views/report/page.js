"use strict";
// Builds the page from the data. Everything that comes from a run is set as text, never as HTML.

let data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set(); // folders of the runs that are not shown
let focus = (data.runs.find((run) => run.ratio) || data.runs[0] || {}).folder; // folder of the run whose own figures are shown
let refill = null; // fills what is about one run

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const shown = () => data.runs.map((_, i) => i).filter((i) => !hidden.has(data.runs[i].folder));
const focused = () => Math.max(0, data.runs.findIndex((run) => run.folder === focus));

function explained(tag, name, label, sentence = (data.texts[name] || {}).sentence) {
  if (!sentence) return element(tag, {}, label);
  // In a table, which scrolls, the page's own bubble would be cut off: the browser's is not.
  const bubble = tag === "th" ? { class: "explained", title: sentence } : { class: "explained bubble", tabindex: "0", "data-sentence": sentence };
  const inner = element("span", { ...bubble, "aria-label": `${label}: ${sentence}` }, label);
  return element(tag, {}, inner);
}

// Different for each metric: environments name parts of the reward as they like, in any script.
const idOf = (name) => `plot-${name.replace(/[^\w/]/gu, (c) => `.${c.codePointAt(0)}`).replaceAll("/", "-")}`;

function figure(id, name, label, make, wide = false) {
  plots.set(id, make);
  const plot = element("div", { class: "plot", id, role: "img", "aria-label": label });
  return element("figure", { class: wide ? "wide" : null }, explained("h3", name, label), element("div", { class: "legend" }), plot);
}

function headlines() {
  const labels = [...new Set(data.runs.flatMap((run) => run.headline.map((fact) => fact[0])))];
  const about = Object.fromEntries(data.runs.flatMap((run) => run.headline.map((fact) => [fact[0], fact[2]])));
  const head = element("tr", {}, element("th", {}, ""), ...data.runs.map((run) => element("th", { title: run.folder }, run.name)));
  const rows = labels.map((label) => element("tr", {}, explained("th", about[label], label),
    ...data.runs.map((run) => element("td", { class: "number" }, (run.headline.find((fact) => fact[0] === label) || [0, "-"])[1]))));
  return element("div", { class: "scroll" }, element("table", { id: "headline" }, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function notes() {
  return element("div", { id: "notes" }, ...data.notes.map((note) => element("p", { class: "soft" }, note)));
}

// Lengths of strokes and gaps, in pixels, of the lines that Plotly calls by these names.
const STROKES = { dot: [3, 3], dash: [6, 4], dashdot: [6, 3, 2, 3], longdash: [11, 4], longdashdot: [9, 3, 2, 3] };

function stripes(color, dash) {
  let at = 0;
  return (STROKES[dash] || [22]).map((length, i) => {
    const paint = i % 2 ? "transparent" : color;
    return `${paint} ${at}px ${(at += length)}px`;
  }).join(", ");
}

function picker() {
  const boxes = data.runs.map((run, i) => {
    const box = element("input", { type: "checkbox", id: `show-${i}`, checked: !hidden.has(run.folder), onchange: (event) => {
      if (event.target.checked) hidden.delete(run.folder);
      else hidden.add(run.folder);
      redraw();
    } });
    const { color, dash } = styleOf(data, i);
    const swatch = element("span", { class: "swatch" });
    swatch.style.border = "0";
    swatch.style.height = "3px";
    swatch.style.backgroundImage = `repeating-linear-gradient(to right, ${stripes(color, dash)})`;
    return element("label", { title: run.folder }, box, swatch, run.name);
  });
  const every = (show) => () => {
    data.runs.forEach((run) => (show ? hidden.delete(run.folder) : hidden.add(run.folder)));
    document.querySelectorAll("#runs input").forEach((box) => (box.checked = show));
    redraw();
  };
  const buttons = data.runs.length > 2 ? [element("button", { type: "button", onclick: every(true) }, "all"), element("button", { type: "button", onclick: every(false) }, "none")] : [];
  return element("fieldset", { class: "tools", id: "runs" }, element("legend", {}, "Runs shown"), ...boxes, ...buttons);
}

// What is about one run. A part that is the same as before stays as it is: a film goes on playing while runs go on.
function ownSection() {
  const holders = [findings, episodes, tokens, samples].map((make) => ({ make, place: element("div", {}), known: null }));
  const fill = () => {
    const run = data.runs[focused()];
    for (const holder of holders) {
      const [about, made] = holder.make(run), now = JSON.stringify([run.folder, about]);
      if (now === holder.known) continue;
      holder.known = now;
      holder.place.replaceChildren(...made());
    }
  };
  const choice = element("select", { id: "own", onchange: (event) => {
    focus = data.runs[event.target.selectedIndex].folder;
    fill();
    redraw();
  } }, ...data.runs.map((run, i) => element("option", { selected: i === focused() }, run.name)));
  fill();
  refill = fill;
  const label = data.runs.length > 1 ? element("label", { class: "tools" }, "Run", choice) : null;
  const ratio = data.runs.some((run) => run.ratio)
    ? figure("plot-ratio", "ratio_histogram", "Probability ratios after each update", () => (data.runs[focused()].ratio ? ratioFigure(data, focused()) : { traces: [], layout: absent(), height: 80 }), true) : null;
  return [element("h2", {}, "One run in detail"), label, ratio && element("div", { class: "grid" }, ratio), ...holders.map((holder) => holder.place)];
}

// Each gives what it shows, and a function that makes it.
function findings(run) {
  const none = run.health ? "Nothing unusual was found." : "Nothing is recorded.";
  const one = (found) => element("div", { class: `finding ${found.severity}` },
    element("div", {}, element("span", { class: "tag" }, `${found.severity} ${found.label}`), `: ${found.cause}`),
    element("div", { class: "soft" }, `seen: ${found.evidence}`),
    element("div", { class: "soft" }, `change: ${found.change} (more: ${found.more})`));
  return [[run.findings, none], () => [element("h3", {}, `Findings in ${run.name}`),
    ...(run.findings.length ? run.findings.map(one) : [element("p", { class: "soft" }, none)])]];
}

function episodes(run) {
  const shelf = shelve(run);
  return [run.videos.length > 0, () => (run.videos.length ? [element("h3", {}, `Episodes of ${run.name}`), shelf] : [])];
}

function tokens(run) {
  return [run.credit, () => (run.credit ? creditSection(run.credit) : [])];
}

function samples(run) {
  return [run.samples, () => (run.samples.length ? [element("h3", {}, `Sample texts of ${run.name}`), texts(run)] : [])];
}

function absent() {
  const layout = baseLayout("", "");
  Object.assign(layout.xaxis, { visible: false });
  Object.assign(layout.yaxis, { visible: false });
  layout.annotations = [{ text: "not recorded in this run", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
  return layout;
}

const shelves = new Map(); // folder of a run -> where its films stand, and these by address: one that plays is not made anew

function shelve(run) {
  if (!shelves.has(run.folder)) shelves.set(run.folder, { place: element("div", { class: "videos" }), films: new Map() });
  const { place, films } = shelves.get(run.folder), wanted = new Set(run.videos.map((film) => film.source));
  for (const [source, made] of films) {
    if (!wanted.has(source)) {
      made.remove();
      films.delete(source);
    }
  }
  run.videos.forEach((film, i) => {
    if (!films.has(film.source)) films.set(film.source, filmOf(film));
    const made = films.get(film.source);
    if (place.children[i] !== made) place.insertBefore(made, place.children[i] || null);
  });
  return place;
}

function filmOf({ step, name, source }) {
  const said = step === null ? `${name}.mp4` : `after ${step.toLocaleString("en")} steps`;
  return element("figure", {}, element("video", { src: source, controls: true, loop: true, "aria-label": said }), element("figcaption", { class: "soft" }, said));
}

const opened = new Map(); // what the reader has opened or closed, by name

// Part of a page that can be closed, as the reader has left it.
function details(name, open, summary, ...children) {
  const onclick = (event) => opened.set(name, !event.currentTarget.parentElement.open); // of a key too
  return element("details", { open: opened.get(name) ?? open }, element("summary", { onclick }, summary), ...children);
}

function texts(run) {
  const rows = run.samples.map((sample) => element("tr", {}, element("td", { class: "number" }, String(sample.step)),
    element("td", { class: "number" }, sample.score), element("td", {}, element("span", { class: "soft" }, sample.prompt), sample.response)));
  const head = element("tr", {}, ...["response number", "score", "prompt and response"].map((text) => element("th", {}, text)));
  return details(`texts of ${run.folder}`, run.samples.length <= 8, `${run.samples.length} of them, from the first to the last`,
    element("div", { class: "scroll" }, element("table", { class: "texts" }, element("thead", {}, head), element("tbody", {}, ...rows))));
}

function settings() {
  const head = element("tr", {}, element("th", {}, "setting"), ...data.runs.map((run) => element("th", {}, run.name)));
  const row = (setting) => element("tr", { class: setting.differs ? "differs" : null }, explained("th", "", setting.key, setting.text),
    ...setting.values.map((value) => element("td", {}, value)));
  const table = (rows) => element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head.cloneNode(true)), element("tbody", {}, ...rows.map(row))));
  const differing = data.settings.filter((setting) => setting.differs);
  const parts = [element("h2", {}, "Configuration")];
  if (data.runs.length > 1) {
    parts.push(element("h3", {}, "What differs"));
    parts.push(differing.length ? table(differing) : element("p", { class: "soft" }, "Nothing: these runs have the same settings."));
  }
  parts.push(details("settings", false, `all ${data.settings.length} settings`, table(data.settings)));
  return parts;
}

function build() {
  plots.clear();
  refill = null;
  for (const folder of shelves.keys()) if (!data.runs.some((run) => run.folder === folder)) shelves.delete(folder);
  const results = [...new Set(data.runs.filter((run) => run.result).map((run) => JSON.stringify([run.task, run.result])))].map((pair) => JSON.parse(pair));
  const curves = results.map(([task, name], k) => figure(`plot-result-${k}`, name, `${data.texts[name].label}, ${task}`, () => resultFigure(data, shown(), task, name), true));
  const sections = data.sections.flatMap((section) => [element("h2", {}, section.title), element("div", { class: "grid" },
    ...section.metrics.map((name) => figure(idOf(name), name, data.texts[name].label, () => lineFigure(data, shown(), name))))]);
  const strips = [];
  if (data.runs.some((run) => run.health)) strips.push(figure("plot-health", "health", "Health of each iteration", () => healthFigure(data, shown())));
  if (data.runs.some((run) => Object.keys(run.phases).length)) strips.push(figure("plot-phases", "seconds", "Time per phase", () => phaseFigure(data, shown())));
  const theme = element("button", { type: "button", id: "theme", onclick: switchTheme }, "light / dark");
  document.getElementById("page").replaceChildren(...[
    element("header", {}, element("h1", {}, data.title), element("span", { class: "soft", id: "made" }, data.live ? `live, ${data.made}` : data.made), element("span", { class: "grow" }), theme),
    data.overview.length > 1 ? overviewTable() : null,
    data.runs.length ? null : element("p", {}, "There is no run here yet."),
    picker(),
    headlines(),
    notes(),
    ...(data.study ? studySection(data.study) : []),
    curves.length ? element("h2", {}, "Learning curves") : null,
    element("div", { class: "grid" }, ...curves),
    strips.length ? element("h2", {}, "Health and time") : null,
    element("div", { class: "grid" }, ...strips),
    ...(data.runs.length ? ownSection() : []),
    ...sections,
    element("p", { class: "soft" }, "Shaded green: healthy by the limits of the health rules (proximo doctor); amber: unusual; red: unsound."),
    ...settings(),
  ].filter((part) => part));
  return watchFigures();
}

function switchTheme() {
  const dark = luminance(css("--paper")) < 0.5;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  recolour();
}

// The runs' colours are others on a dark ground, in their list as in the figures.
function recolour() {
  document.getElementById("runs").replaceWith(picker());
  return redraw();
}
