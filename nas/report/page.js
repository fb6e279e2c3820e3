"use strict";
// Plots: each element with data-figure takes the figure of that name.
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll("[data-figure]")];
const config = { responsive: true, displayModeBar: false };
for (const place of plots) {
  const { data, layout } = figures[place.dataset.figure];
  Plotly.newPlot(place, data, layout, config);
}

// Paper has a width of its own: plots are drawn anew for it and go back afterwards.
const PAPER_WIDTH = 680; // px, the text width of A4 with the margins of the style sheet
const PAPER_SHARE = 0.85; // of a plot's height on the screen
const height = (place) => figures[place.dataset.figure].layout.height;
const onPaper = (place) => Plotly.relayout(place, { width: PAPER_WIDTH, height: PAPER_SHARE * height(place), autosize: false });
const onScreen = (place) => Plotly.relayout(place, { width: null, height: height(place), autosize: true });
addEventListener("beforeprint", () => plots.forEach(onPaper));
addEventListener("afterprint", () => plots.forEach(onScreen));

// Tables: a header sorts its column, again turns the order round. Numbers by value, texts by the alphabet, what is missing last.
function compare(a, b) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
}
function sort(header) {
  const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
  const up = header.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].dataset.key;
  const turned = (a, b) => (key(a) === undefined || key(b) === undefined || up ? compare(key(a), key(b)) : compare(key(b), key(a)));
  const rows = [...body.rows].sort(turned);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}
document.addEventListener("click", (event) => {
  const header = event.target.closest("table.sortable th");
  if (header) sort(header);
});
