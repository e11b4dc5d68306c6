// The table of runs: its headings sort it, and its ticks choose the runs of the charts.
const table = document.getElementById("runs");
const rows = [...table.tBodies[0].rows]; // the best first, in the order of the data
const ticks = [];
const collator = new Intl.Collator("en", { numeric: true });
const DEFAULT_TICKS = 20;

// A number, a text, or null for an empty cell.
function cellValue(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number(text);
  return text === "" ? null : Number.isNaN(number) ? text : number;
}

// Empty cells come last in both directions, numbers come before texts, and equal cells keep the order of the best.
function compareCells(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  if (typeof a !== typeof b) return sign * (typeof a === "number" ? -1 : 1);
  return sign * collator.compare(a, b);
}

function sortRows(heading, direction) {
  const column = heading.cellIndex;
  const cells = new Map(rows.map((row) => [row, cellValue(row, column)]));
  const sign = direction === "descending" ? -1 : 1;
  table.tBodies[0].append(...[...rows].sort((a, b) => compareCells(cells.get(a), cells.get(b), sign)));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  document.getElementById("sorted").textContent = `Sorted by ${heading.textContent}, ${direction}.`;
}

function addSorting(heading) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const first = heading.dataset.first || "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    sortRows(heading, heading.getAttribute("aria-sort") === first ? second : first);
  });
}

function addTick(row, run) {
  const tick = document.createElement("input");
  tick.type = "checkbox";
  tick.setAttribute("aria-label", `show ${row.cells[0].textContent.trim()} in the charts`);
  tick.disabled = data.runs[run].value === null && data.runs[run].epochs.length === 0;
  tick.addEventListener("change", drawCharts);
  row.cells[0].prepend(tick);
  ticks.push(tick);
}

function tickRuns(count) {
  let remaining = count;
  for (const tick of ticks) tick.checked = !tick.disabled && remaining-- > 0;
  drawCharts();
}

function tickedRuns() {
  return ticks.flatMap((tick, run) => (tick.checked ? [run] : []));
}

[...table.tHead.rows[0].cells].forEach(addSorting);
rows.forEach(addTick);
const most = Math.min(DEFAULT_TICKS, rows.length);
for (const [id, count] of [["tick-best", most], ["tick-all", rows.length], ["tick-none", 0]]) {
  document.getElementById(id).addEventListener("click", () => tickRuns(count));
}
document.getElementById("tick-best").textContent = `Tick the best ${most}`;
for (const element of document.querySelectorAll(".script-only")) element.hidden = false;
tickRuns(most);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) requestAnimationFrame(drawCharts);
  width = innerWidth;
});
