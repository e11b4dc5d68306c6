// The charts of the ticked runs: the objective over epochs, and one line for each run over all keys.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const COLORS = 8, DASHES = 4, LEGEND = 40, LABELS = 12, CHARACTERS = 17, LOG_SPAN = 100;

function element(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// Replace the content of a container with an empty image.
function newImage(container, width, height, description) {
  container.replaceChildren();
  return element(container, "svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description });
}

function lineClass(run) {
  return `c${run % COLORS} d${Math.floor(run / COLORS) % DASHES}${run === 0 ? " best" : ""}`;
}

function format(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2).replace(/\.?0+e\+?/, "e");
}

function shorten(text) {
  if (text.length <= CHARACTERS) return text;
  const end = text.slice(1 - CHARACTERS);
  return "…" + (/[./].*/.exec(end)?.[0] ?? end); // whole parts of a key, if they are short enough
}

// Round numbers between two limits; powers of ten on a logarithmic axis.
function ticksBetween(low, high, count, log) {
  if (log) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const step = Math.max(1, Math.ceil((last - first) / count));
    return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => 10 ** (first + i * step));
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

// A function from values to pixels, and its ticks.
function buildScale(values, start, end, log, count) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = [1, 10]; // no values
  if (low === high) [low, high] = log ? [low / 2, low * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const map = log ? Math.log10 : Number;
  const position = (value) => start + ((map(value) - map(low)) / (map(high) - map(low))) * (end - start);
  return { position, ticks: ticksBetween(low, high, count, log) };
}

function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function drawCurves(runs) {
  const container = document.getElementById("curves");
  if (!container) return;
  const shown = runs.filter((run) => data.runs[run].epochs.length > 0);
  const [width, height, left, bottom] = [container.clientWidth, 340, 58, 300];
  const image = newImage(container, width, height, `${data.objective} over epochs, ${shown.length} runs`);
  document.getElementById("legend").replaceChildren();
  if (!shown.length) return element(image, "text", { x: 8, y: 24 }, "No run with epochs is ticked.");
  const values = shown.flatMap((run) => data.runs[run].values);
  const smallest = Math.min(...shown.map((run) => Math.min(...data.runs[run].values)));
  const largest = Math.max(...shown.map((run) => Math.max(...data.runs[run].values)));
  const log = data.mode === "min" && smallest > 0 && largest / smallest > LOG_SPAN;
  const x = buildScale(shown.flatMap((run) => data.runs[run].epochs), left, width - 12, false, Math.min(10, width / 70));
  const y = buildScale(values, bottom, 12, log, 6);
  for (const tick of y.ticks) {
    element(image, "line", { x1: left, x2: width - 12, y1: y.position(tick), y2: y.position(tick) });
    element(image, "text", { x: left - 6, y: y.position(tick) + 4, "text-anchor": "end" }, format(tick));
  }
  for (const tick of x.ticks.filter(Number.isInteger)) {
    element(image, "text", { x: x.position(tick), y: bottom + 18, "text-anchor": "middle" }, tick);
  }
  element(image, "line", { x1: left, x2: width - 12, y1: bottom, y2: bottom, class: "axis" });
  element(image, "text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "epoch");
  for (const run of [...shown].reverse()) {
    const { epochs, values } = data.runs[run];
    const points = epochs.map((epoch, i) => [x.position(epoch), y.position(values[i])]);
    if (points.length === 1) points.push([points[0][0] + 4, points[0][1]]); // a single point has no line
    const line = element(image, "path", { d: path(points), class: lineClass(run) });
    element(line, "title", {}, describeRun(run));
  }
  drawLegend(shown);
}

function describeRun(run) {
  const { name, value } = data.runs[run];
  return value === null ? name : `${name}: ${format(value)}`;
}

function drawLegend(runs) {
  const items = runs.slice(0, LEGEND).map((run) => {
    const item = document.createElement("li");
    const sample = element(item, "svg", { width: 28, height: 8, "aria-hidden": "true" });
    element(sample, "path", { d: "M0 4L28 4", class: lineClass(run) });
    item.append(describeRun(run));
    return item;
  });
  if (runs.length > LEGEND) {
    const item = document.createElement("li");
    item.textContent = `and ${runs.length - LEGEND} more`;
    items.push(item);
  }
  document.getElementById("legend").replaceChildren(...items);
}

function drawParallel(runs) {
  const container = document.getElementById("parallel");
  if (!container) return;
  const objective = { key: data.objective, values: data.runs.map((run) => run.value), categories: [], log: false };
  const axes = [...data.axes, objective];
  const [top, bottom, left] = [34, 300, 70];
  const width = Math.max(container.clientWidth, left + 60 + 130 * (axes.length - 1));
  const finished = data.runs.flatMap(({ value }, run) => (value === null ? [] : [run]));
  const image = newImage(container, width, bottom + 34, `${finished.length} runs over ${axes.map(({ key }) => key).join(", ")}`);
  const step = (width - left - 60) / (axes.length - 1);
  const columns = axes.map((axis, i) => ({ ...axis, x: left + i * step, scale: axisScale(axis, finished, bottom, top) }));
  const ticked = new Set(runs);
  const order = [...finished.filter((run) => !ticked.has(run)), ...finished.filter((run) => ticked.has(run)).reverse()];
  for (const run of order) {
    const points = columns.map(({ x, scale, values }) => [x, values[run] === null ? bottom + 20 : scale.position(values[run])]);
    const line = element(image, "path", { d: path(points), class: ticked.has(run) ? lineClass(run) : "other" });
    if (!ticked.has(run)) line.style.opacity = Math.min(0.4, Math.max(0.06, 12 / finished.length));
    element(line, "title", {}, describeRun(run));
  }
  columns.forEach((axis) => drawAxis(image, axis, finished, top, bottom));
}

function axisScale({ values, categories, log }, runs, bottom, top) {
  const present = runs.map((run) => values[run]).filter((value) => value !== null);
  if (!categories.length) {
    const scale = buildScale(present, bottom, top, log, 5);
    return { ...scale, ticks: scale.ticks.filter((tick) => Number.isInteger(tick) || !present.every(Number.isInteger)) };
  }
  const every = Math.ceil(categories.length / LABELS);
  const ticks = categories.map((_, i) => i).filter((i) => i % every === 0);
  return { ...buildScale(categories.length > 1 ? [0, categories.length - 1] : [0], bottom, top, false, 5), ticks };
}

function drawAxis(image, { key, x, scale, values, categories }, runs, top, bottom) {
  element(image, "line", { x1: x, x2: x, y1: top, y2: bottom, class: "axis" });
  const title = element(image, "text", { x, y: 16, "text-anchor": "middle", class: "name" }, shorten(key));
  element(title, "title", {}, key);
  const label = (y, text) => element(image, "text", { x: x - 5, y: y + 4, "text-anchor": "end", class: "label" }, text);
  for (const tick of scale.ticks) {
    element(image, "line", { x1: x - 3, x2: x + 3, y1: scale.position(tick), y2: scale.position(tick), class: "axis" });
    label(scale.position(tick), categories.length ? shorten(categories[tick] || "none") : format(tick));
  }
  if (runs.some((run) => values[run] === null)) label(bottom + 20, "none");
}

function drawCharts() {
  const runs = tickedRuns();
  drawCurves(runs);
  drawParallel(runs);
}
