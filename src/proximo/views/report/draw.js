"use strict";
// Draws each figure when it comes into view: a page of long runs has some twenty, of which the first screen shows four.

const plots = new Map(); // element id -> function that gives its figure
const stale = new Set(); // ids of those that show nothing yet, or what was before
const near = new Set(); // ids of those in view, or almost
let looked = false; // whether the browser has said which those are
const CONFIG = { responsive: true, displayModeBar: false }; // drag to zoom, double-click to go back

const eye = new IntersectionObserver((entries) => {
  looked = true;
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) near.add(target.id);
    else near.delete(target.id);
  }
  drawNext();
}, { rootMargin: "100px" });

function drawOne(id) {
  stale.delete(id);
  const place = document.getElementById(id), made = place && plots.get(id)();
  if (!made) return null;
  if (made.height) {
    place.style.height = `${made.height}px`;
    made.layout.height = made.height; // a figure that is there already does not see that its place has changed
  }
  place.previousElementSibling.replaceChildren(...(made.legend || []).map(([name, colour]) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderTopColor = colour;
    return element("span", {}, swatch, name);
  }));
  return Plotly.react(place, made.traces, made.layout, CONFIG).then(() => {
    if (!place.dataset.zooms) place.on("plotly_relayout", (change) => "margin.l" in change || apart(place)); // zoomed in to
    place.dataset.zooms = "1";
    apart(place); // is not waited for: the next figure need not
  });
}

// Long numbers along the upright axis get the room that they need beside its title.
function apart(place) {
  const title = place.querySelector(".ytitle"), boxes = [...place.querySelectorAll(".ytick text")].map((mark) => mark.getBoundingClientRect());
  const lefts = boxes.filter((box) => box.width).map((box) => box.left); // what is not drawn has no place
  if (!title || !lefts.length) return null;
  const missing = title.getBoundingClientRect().right + 4 - Math.min(...lefts);
  if (!(missing > 0 && missing < 100)) return null;
  return Plotly.relayout(place, { "margin.l": place.layout.margin.l + Math.ceil(missing) });
}

const nextOne = () => [...plots.keys()].find((id) => near.has(id) && stale.has(id));

async function drawNear() {
  for (let id = nextOne(); id; id = nextOne()) {
    await drawOne(id);
    await new Promise((next) => setTimeout(next)); // lets the browser show what is drawn already
  }
  if (!looked && plots.size) return;
  document.documentElement.dataset.screen ??= String(Math.round(performance.now()));
  document.documentElement.dataset.drawn = String(plots.size - stale.size);
}

let drawing = Promise.resolve();
function drawNext() {
  delete document.documentElement.dataset.drawn;
  drawing = drawing.then(drawNear, drawNear);
  return drawing;
}

// The data or the colours have changed.
function redraw() {
  for (const id of plots.keys()) stale.add(id);
  return drawNext();
}

// The page has been built anew, with these figures.
function watchFigures() {
  eye.disconnect();
  near.clear();
  looked = false;
  for (const id of plots.keys()) eye.observe(document.getElementById(id));
  return redraw();
}

addEventListener("beforeprint", () => [...stale].forEach(drawOne));
