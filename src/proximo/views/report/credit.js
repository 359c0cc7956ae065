"use strict";
// Tokens on coloured ground: vermillion is negative, blue is positive, the 95th percentile of the iteration is full.

const SIGNS = ["213, 94, 0", "0, 114, 178"];

function ground(value, scale) {
  const share = scale > 0 ? Math.min(1, Math.abs(value) / scale) : 0;
  return share ? `background: rgba(${SIGNS[value > 0 ? 1 : 0]}, ${(0.75 * share).toFixed(2)})` : null;
}

let colouredBy = null; // what the reader has chosen, kept when another iteration is shown

function creditSection(credit) {
  const names = Object.keys(credit.scale);
  const holder = element("div", {});
  const show = (by) => {
    colouredBy = by;
    const scale = credit.scale[by];
    const legend = [-1, -0.5, 0, 0.5, 1].map((share) => element("span", { style: ground(share * scale, scale) }, ` ${(share * scale).toPrecision(3)} `));
    holder.replaceChildren(
      element("p", { class: "credit-legend soft" }, `${by}: `, ...legend, ` (the last is the 95th percentile of its size in the iteration)`),
      ...credit.responses.map((response) => creditOf(response, by, scale)));
  };
  const choice = element("select", { id: "credit-by", onchange: (event) => show(names[event.target.selectedIndex]) },
    ...names.map((name) => element("option", { selected: name === colouredBy }, name)));
  show(names.includes(colouredBy) ? colouredBy : names[0]);
  return [
    element("h3", {}, `What iteration ${credit.iteration} learnt from: its worst and best of ${credit.count} responses`),
    element("label", { class: "tools" }, "Tokens coloured by", choice),
    credit.note ? element("p", { class: "soft" }, credit.note) : null,
    holder,
  ].filter((part) => part);
}

function creditOf(response, by, scale) {
  const tokens = response.tokens.map((text, i) => {
    const value = response.columns[by][i];
    return element("span", { style: ground(value, scale), title: `${by} ${value}` }, text);
  });
  const rest = response.left ? [element("span", { class: "soft" }, ` (${response.left} more tokens)`)] : [];
  const row = (amount, name, how) => element("tr", {}, element("td", { class: "number" }, amount), element("td", {}, name), element("td", { class: "soft" }, how));
  return element("div", { class: "credit" },
    element("div", {}, element("span", { class: "tag" }, `response ${response.number}, score ${response.score}`)),
    element("div", { class: "tokens" }, element("span", { class: "soft" }, response.prompt), " ", ...tokens, ...rest),
    element("table", {}, element("tbody", {}, ...response.parts.map((part) => row(part[1], part[0], part[2])), row(response.total, "reward that it was learnt from", ""))));
}
