// The curves and the browser of completions. Texts are foreign: they reach the page by textContent alone.
(function () {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, words, className) {
  const element = document.createElement(tag);
  if (words !== undefined) element.textContent = words;
  if (className) element.className = className;
  return element;
}

function told(value, unit) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = unit === "%" ? 1 : size >= 100 ? 0 : size >= 1 ? 2 : 4;
  const tiny = size !== 0 && (size < 1e-3 || size >= 1e7);
  const text = tiny ? value.toExponential(1) : unit === "%" ? value.toFixed(digits) : String(Number(value.toFixed(digits)));
  return unit ? text + " " + unit : text;
}

// --- curves ---------------------------------------------------------------------------------------------

const plots = [];
let following = false; // true while the others follow a zoom

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function last(values) {
  return values.findLast((value) => value !== null);
}

function columns(chart) {
  const series = [{ label: "step", value: (plot, step, index, at) => String(at === null ? last(plot.data[0]) : step ?? "–") }];
  const rows = [chart.x];
  const bands = [];
  // Without a cursor the legend shows the last values.
  const value = (plot, number, index, at) => told(at === null ? last(plot.data[index]) : number, chart.unit);
  for (const one of chart.series) {
    const stroke = color("--c" + one.color);
    series.push({ label: one.label, stroke, width: 2, spanGaps: true, value });
    rows.push(one.y);
    if (!one.high) continue;
    const faint = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, value };
    bands.push({ series: [series.length, series.length + 1], fill: color("--band") });
    series.push({ label: "95 % to", ...faint }, { label: "from", ...faint });
    rows.push(one.high, one.low);
  }
  return { series, rows, bands };
}

function drawMarks(plot) {
  const { ctx, bbox } = plot;
  const { min, max } = plot.scales.x;
  ctx.save();
  ctx.setLineDash([4, 4]);
  ctx.textAlign = "center";
  ctx.font = Math.round(bbox.height / 13) + "px system-ui, sans-serif";
  const drawn = new Set(), used = new Map(); // kinds at a step, and how many of them
  for (const mark of data.marks) {
    if (mark.step < min || mark.step > max || drawn.has(mark.step + mark.kind)) continue;
    drawn.add(mark.step + mark.kind);
    const before = used.get(mark.step) || 0;
    used.set(mark.step, before + 1);
    const [sign, name] = data.kinds[mark.kind];
    const x = Math.round(plot.valToPos(mark.step, "x", true)) + 0.5;
    ctx.strokeStyle = ctx.fillStyle = color(name);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillText(sign, x + before * bbox.height / 13, bbox.top - bbox.height / 40); // beside those before
  }
  ctx.restore();
}

function followZoom(plot, key) {
  if (key !== "x" || following) return;
  following = true;
  const { min, max } = plot.scales.x;
  for (const { plot: other } of plots) if (other !== plot) other.setScale("x", { min, max });
  following = false;
}

const steps = data.charts.flatMap((chart) => [chart.x[0], chart.x[chart.x.length - 1]]);
const whole = { min: Math.min(...steps), max: Math.max(...steps, Math.min(...steps) + 1) };

function options(chart, width, series, bands) {
  const axis = { stroke: color("--soft"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const span = chart.unit === "%" ? { range: [0, 100] } : { range: (_, low, high) => padded(low, high) };
  return {
    width, height: 190, series, bands, padding: [data.marks.length ? 16 : null, null, null, null],
    scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) }, y: span },
    axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6], size: 28 },
           { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => short(tick)) }],
    cursor: { sync: { key: "steps", setSeries: false, scales: ["x", null] }, drag: { x: true, y: false }, points: { size: 7 } },
    hooks: { setScale: [followZoom], draw: [drawMarks] },
  };
}

function short(tick) {
  const size = Math.abs(tick);
  if (size >= 1e6) return tick / 1e6 + " M";
  if (size >= 1e4) return tick / 1e3 + " k";
  return size !== 0 && size < 1e-3 ? Number(tick.toPrecision(3)).toExponential() : String(Number(tick.toPrecision(6)));
}

function padded(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = high === low ? Math.abs(high) * 0.1 || 1 : (high - low) * 0.08;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

function summary(chart) {
  const words = chart.series.map((one) => {
    const known = one.y.filter((value) => value !== null);
    return one.label + " from " + told(known[0], chart.unit) + " to " + told(known[known.length - 1], chart.unit);
  });
  return chart.title + ": " + words.join("; ") + ", steps " + chart.x[0] + " to " + chart.x[chart.x.length - 1] + ". Arrow keys read values.";
}

function draw(figure) {
  const chart = data.charts[Number(figure.dataset.chart)];
  const place = figure.querySelector(".plot");
  place.textContent = "";
  const { series, rows, bands } = columns(chart);
  const plot = new uPlot(options(chart, place.clientWidth, series, bands), rows, place);
  plot.setScale("x", whole);
  plots.push({ plot, chart, place });
  place.tabIndex = 0;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", summary(chart));
}

function zoom(plot, factor) {
  const { min, max } = plot.scales.x;
  const at = plot.cursor.idx === null || plot.cursor.idx === undefined ? (min + max) / 2 : plot.data[0][plot.cursor.idx];
  const low = Math.max(whole.min, at - (at - min) * factor), high = Math.min(whole.max, at + (max - at) * factor);
  if (high - low >= 1) plot.setScale("x", { min: low, max: high });
}

function moveTo(plot, chart, index) {
  const step = chart.x[index];
  for (const { plot: one } of plots) one.setCursor({ left: one.valToPos(step, "x"), top: 10 }, true, false);
  const values = chart.series.map((one) => one.label + " " + told(one.y[index], chart.unit));
  $("spoken").textContent = "step " + step + ": " + values.join(", ");
}

function onKey(event) {
  const found = plots.find((one) => one.place === event.currentTarget);
  if (!found || event.ctrlKey || event.metaKey || event.altKey) return;
  const { plot, chart } = found, last = chart.x.length - 1;
  const at = found.at === undefined ? (plot.cursor.idx ?? last) : found.at;
  const goes = { ArrowLeft: Math.max(0, at - 1), ArrowRight: Math.min(last, at + 1), Home: 0, End: last };
  if (event.key in goes) moveTo(plot, chart, (found.at = goes[event.key]));
  else if (event.key === "+" || event.key === "=") zoom(plot, 0.5);
  else if (event.key === "-") zoom(plot, 2);
  else if (event.key === "0" || event.key === "Escape") plot.setScale("x", whole);
  else return;
  event.preventDefault();
}

function table(chart) {
  const made = make("table"), head = make("tr"), body = make("tbody");
  for (const name of ["step", ...chart.series.map((one) => one.label)]) {
    const cell = make("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  chart.x.forEach((step, index) => {
    const row = make("tr"), first = make("th", String(step));
    first.scope = "row";
    row.append(first, ...chart.series.map((one) => {
      const bounds = one.low && one.low[index] !== null ? " (" + told(one.low[index]) + " to " + told(one.high[index]) + ")" : "";
      return make("td", told(one.y[index], chart.unit) + bounds);
    }));
    body.append(row);
  });
  const top = make("thead");
  top.append(head);
  made.append(top, body);
  return made;
}

const figures = [...document.querySelectorAll(".chart")];

function drawAll() {
  for (const { plot } of plots) plot.destroy();
  plots.length = 0;
  figures.forEach(draw);
}

for (const figure of figures) {
  figure.querySelector("details").addEventListener("toggle", (event) => {
    const place = figure.querySelector(".numbers");
    if (event.target.open && !place.firstChild) place.append(table(data.charts[Number(figure.dataset.chart)]));
  });
  figure.querySelector(".plot").addEventListener("keydown", onKey);
}
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  for (const { plot, place } of plots) {
    if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: 190 });
  }
}).observe(document.body);

// --- completions ----------------------------------------------------------------------------------------

const isRun = data.kind === "Run"; // else an evaluation of one or two models
const PAGE = 12; // groups at once
const { prompts, fields, rewards } = data.completions;
const rows = data.completions.rows.map((values) => {
  const row = Object.fromEntries(fields.map((name, index) => [name, values[index]]));
  const scores = rewards.map((name, index) => [name, values[fields.length + index]]);
  return { ...row, rewards: scores.filter(([, value]) => value !== null) };
});

function grouped(kept) {
  const groups = new Map();
  for (const row of kept) {
    const key = isRun ? row.run + "/" + row.prompt : row.prompt;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  return [...groups.values()];
}

const score = (row) => row.reward ?? row.rewards.reduce((sum, [, value]) => sum + value, 0);
const highest = rows.reduce((most, row) => Math.max(most, score(row)), -Infinity);
const spread = new Map(); // run/step/prompt → [lowest, highest reward]
for (const row of rows) {
  const key = [row.run, row.step, row.prompt].join("/"), seen = spread.get(key) || [Infinity, -Infinity];
  spread.set(key, [Math.min(seen[0], row.reward ?? Infinity), Math.max(seen[1], row.reward ?? -Infinity)]);
}
const solved = new Set(rows.filter((row) => row.right).map((row) => row.run + "/" + row.prompt));
const rightOf = (run, row) => solved.has(run + "/" + row.prompt);
const FILTERS = {
  all: () => true,
  right: (row) => row.right === true,
  wrong: (row) => row.right === false,
  cut: (row) => row.stop === "length",
  fooled: (row) => row.right === false && score(row) >= highest,
  gained: (row) => rightOf(0, row) && !rightOf(1, row),
  lost: (row) => !rightOf(0, row) && rightOf(1, row),
  spread: (row) => (row.advantage ?? 0) !== 0 || isMixed(row),
};

function isMixed(row) {
  const [low, high] = spread.get([row.run, row.step, row.prompt].join("/"));
  return low < high;
}

function marked(text, sought) { // text nodes and <mark> elements
  const parts = document.createDocumentFragment();
  const plain = text.toLowerCase();
  let from = 0;
  for (let at = sought && plain.length === text.length ? plain.indexOf(sought) : -1; at >= 0; at = plain.indexOf(sought, from)) {
    parts.append(text.slice(from, at), make("mark", text.slice(at, at + sought.length)));
    from = at + sought.length;
  }
  parts.append(text.slice(from));
  return parts;
}

// --- tokens in color ---

const CHANCES = [0.9, 0.5, 0.2, 0.05, 0.01]; // lower ends of the classes p0 to p4; p5 is below
const SIZES = [0.5, 1]; // of an advantage
const placeOf = new Map([...data.alphabet].map((sign, index) => [sign, index]));
const NOT_SAMPLED = data.alphabet.length - 1;
const paintBy = () => ($("paint") ? $("paint").value : "");

function classOf(row, level) {
  if (level === NOT_SAMPLED) return "given";
  if (paintBy() === "logprob") {
    const chance = Math.exp(-level / 10), found = CHANCES.findIndex((least) => chance >= least - 0.005);
    return "p" + (found < 0 ? CHANCES.length : found);
  }
  const size = Math.abs(row.advantage ?? 0), degree = SIZES.filter((least) => size >= least).length;
  return size < 1e-6 ? "" : (row.advantage > 0 ? "more" : "less") + degree;
}

function wordsOf(row, level) {
  if (level === NOT_SAMPLED) return "not sampled: part of the prompt, or written by the environment";
  const chance = Math.exp(-level / 10);
  return "probability " + (level >= NOT_SAMPLED - 1 ? "below 0.0002" : chance >= 0.1 ? chance.toFixed(2) : chance.toPrecision(1)) +
    ", advantage " + told(row.advantage);
}

function colored(row, sought) { // a span for each token; the text stays one text
  const parts = document.createDocumentFragment();
  const signs = [...row.text];
  let at = 0;
  [...row.lengths].forEach((length, index) => {
    const level = placeOf.get(row.levels[index]), size = placeOf.get(length);
    const span = make("span", undefined, "token " + classOf(row, level));
    span.title = wordsOf(row, level);
    span.append(marked(signs.slice(at, at + size).join(""), sought));
    parts.append(span);
    at += size;
  });
  parts.append(signs.slice(at).join(""));
  return parts;
}

const sample = (words, className) => make("span", words, "token " + className);

function legend(kept) {
  const place = $("legend");
  if (!place) return;
  place.textContent = "";
  if (!paintBy()) return;
  const known = kept.filter((row) => row.lengths).length;
  if (paintBy() === "logprob") {
    const names = ["0.9 and more", "0.5", "0.2", "0.05", "0.01", "less"];
    place.append("Probability with which the policy sampled each token: ", ...names.map((name, index) => sample(name, "p" + index)));
  } else {
    place.append("Advantage of the completion, which each of its sampled tokens gets: ",
      sample("more likely from now on", "more2"), sample("less likely", "less2"), sample("0: teaches nothing", ""));
  }
  place.append(sample("not sampled", "given"));
  if (known < kept.length) {
    place.append(make("p", known + " of these " + kept.length + " completions have their tokens in the log. The others are from completions.jsonl, " +
      "which has texts alone: keep_rollouts says of how many steps the tokens are kept."));
  }
}

// --- cards ---

function card(row, sought, title) {
  const made = make("article", undefined, "card" + (row.right === true ? " right" : row.right === false ? " wrong" : ""));
  const head = make("h4", title);
  if (row.right !== null) head.append(make("span", row.right ? "✓ right" : "✗ wrong", row.right ? "good" : "bad"));
  if (row.stop === "length") head.append(make("span", "cut off", "warn"));
  const text = make("pre");
  text.tabIndex = 0;
  text.append(paintBy() && row.lengths ? colored(row, sought) : marked(row.text, sought));
  const scores = isRun ? ["reward " + told(row.reward)] : [];
  if (row.rewards.length > 1 || !isRun) scores.push(...row.rewards.map(([name, value]) => name + " " + told(value)));
  const facts = [...(isRun ? ["advantage " + told(row.advantage)] : []), (row.tokens ?? "–") + " tokens", "stop: " + row.stop];
  if (row.turns) facts.push(row.turns + " turns", (row.tool_calls ?? 0) + " tool calls");
  made.append(head, make("p", scores.join(" · ")), make("p", facts.join(" · ")), text);
  return made;
}

const STEPS = 8; // of a problem at once

function bySteps(members) {
  const found = new Map();
  for (const row of members) found.set(row.step, [...(found.get(row.step) || []), row]);
  return [...found.entries()].sort(([one], [other]) => one - other);
}

function column(step, rows, sought) {
  const made = make("section", undefined, "step"), known = rows.map((row) => row.reward).filter((value) => value !== null);
  const mean = known.length ? ", mean reward " + told(known.reduce((sum, value) => sum + value, 0) / known.length) : "";
  const cards = make("div", undefined, "cards");
  cards.append(...rows.map((row, index) => card(row, sought, index + 1 + " of " + rows.length)));
  made.append(make("h4", "Step " + step + ": " + rows.length + (rows.length === 1 ? " completion" : " completions") + mean), cards);
  return made;
}

function columnsOf(members, sought) { // a problem's groups at each step, side by side
  const steps = bySteps(members), made = make("div", undefined, steps.length > 1 ? "steps" : "steps one");
  if (steps.length > 1) {
    made.tabIndex = 0;
    made.setAttribute("role", "region");
    made.setAttribute("aria-label", "Groups at " + steps.length + " steps");
  }
  const add = (some) => some.forEach(([step, rows]) => made.append(column(step, rows, sought)));
  add(steps.splice(0, STEPS));
  if (steps.length) {
    const more = make("button", "Show " + steps.length + " more steps");
    more.type = "button";
    more.addEventListener("click", () => {
      more.remove();
      add(steps);
    });
    made.append(more);
  }
  return made;
}

function groupOf(members, sought) {
  const several = new Set(members.map((row) => row.step)).size < members.length; // a step has more than one
  const made = make("section", undefined, members.length > 1 ? "group several" : "group");
  const { prompt, answer, run } = members[0];
  const of = isRun && data.runs.length > 1 ? " – " + data.runs[run] : "";
  const text = make("pre", undefined, "prompt");
  text.tabIndex = 0;
  text.append(marked(prompts[prompt], sought));
  const head = make("h3", "Problem " + (prompt + 1) + of);
  if (answer) head.append(make("small", " answer: " + answer));
  made.append(head, text);
  if (isRun && several) {
    made.append(columnsOf(members, sought));
    return made;
  }
  const cards = make("div", undefined, "cards");
  cards.append(...members.map((row) => card(row, sought, isRun ? "step " + row.step : data.runs[row.run])));
  made.append(cards);
  return made;
}

let shown = [];

function showMore() {
  const place = $("groups"), sought = $("search").value.toLowerCase();
  const next = shown.splice(0, PAGE);
  place.append(...next.map((members) => groupOf(members, sought)));
  $("more").hidden = shown.length === 0;
}

function show() {
  const sought = $("search").value.toLowerCase(), problem = $("problem").value;
  const run = $("run") ? $("run").value : "";
  const kept = rows.filter((row) =>
    (problem === "" || row.prompt === Number(problem)) && (run === "" || row.run === Number(run)) &&
    FILTERS[$("filter").value](row) &&
    (!sought || row.text.toLowerCase().includes(sought) || prompts[row.prompt].toLowerCase().includes(sought)));
  shown = grouped(kept);
  $("count").textContent = kept.length + " of " + rows.length + " completions, " + shown.length + (shown.length === 1 ? " problem" : " problems");
  $("groups").textContent = "";
  legend(kept);
  showMore();
}

if ($("controls")) {
  const all = make("option", "all " + prompts.length);
  all.value = "";
  $("problem").append(all, ...prompts.map((prompt, index) => {
    const line = prompt.replace(/\s+/g, " ").trim();
    const option = make("option", index + 1 + ": " + (line.length > 70 ? line.slice(0, 69) + "…" : line));
    option.value = String(index);
    return option;
  }));
  let waiting = 0;
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 120);
  });
  $("more").addEventListener("click", showMore);
  show();
}

// --- a run that is training -------------------------------------------------------------------------------

if (data.refresh) {
  setInterval(() => {
    if ($("live").checked && !document.hidden) location.reload();
  }, 1000 * data.refresh);
}
})();
