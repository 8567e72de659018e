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
  const text = tiny ? value.toExponential(1) : Number.isInteger(value) && unit !== "%" ? String(value) : value.toFixed(digits);
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
  ctx.strokeStyle = color("--warn");
  ctx.setLineDash([4, 4]);
  for (const mark of data.marks) {
    if (mark.step < min || mark.step > max) continue;
    const x = Math.round(plot.valToPos(mark.step, "x", true)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
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
    width, height: 190, series, bands,
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

function card(row, sought) {
  const title = isRun ? "step " + row.step : data.runs[row.run];
  const made = make("article", undefined, "card" + (row.right === true ? " right" : row.right === false ? " wrong" : ""));
  const head = make("h4", title);
  if (row.right !== null) head.append(make("span", row.right ? "✓ right" : "✗ wrong", row.right ? "good" : "bad"));
  if (row.stop === "length") head.append(make("span", "cut off", "warn"));
  const text = make("pre");
  text.tabIndex = 0;
  text.append(marked(row.text, sought));
  const scores = isRun ? ["reward " + told(row.reward)] : [];
  if (row.rewards.length > 1 || !isRun) scores.push(...row.rewards.map(([name, value]) => name + " " + told(value)));
  const facts = [...(isRun ? ["advantage " + told(row.advantage)] : []), (row.tokens ?? "–") + " tokens", "stop: " + row.stop];
  if (row.turns) facts.push(row.turns + " turns", (row.tool_calls ?? 0) + " tool calls");
  made.append(head, make("p", scores.join(" · ")), make("p", facts.join(" · ")), text);
  return made;
}

function groupOf(members, sought) {
  const made = make("section", undefined, members.length > 1 ? "group several" : "group");
  const { prompt, answer, run } = members[0];
  const of = isRun && data.runs.length > 1 ? " – " + data.runs[run] : "";
  const text = make("pre", undefined, "prompt");
  text.tabIndex = 0;
  text.append(marked(prompts[prompt], sought));
  const cards = make("div", undefined, "cards");
  cards.append(...members.map((row) => card(row, sought)));
  const head = make("h3", "Problem " + (prompt + 1) + of);
  if (answer) head.append(make("small", " answer: " + answer));
  made.append(head, text, cards);
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
