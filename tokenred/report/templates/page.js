"use strict";

// Tables: a click on a heading sorts the rows of each budget, never across budgets.
for (const table of document.querySelectorAll("table.rows")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const start = column === 0 ? "ascending" : "descending";
      const now = head.getAttribute("aria-sort");
      const order = !now ? start : now === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      for (const body of table.querySelectorAll("tbody[data-ranked]")) {
        sortRows(body, column, order === "ascending" ? 1 : -1);
      }
    });
  });
}

function sortRows(body, column, sign) {
  const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
  const values = new Map(rows.map((row) => [row, row.cells[column].dataset.value]));
  rows.sort((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (column === 0 ? x.localeCompare(y) : Number(x) - Number(y));
  });
  body.append(...rows);
}

// Samples: show the questions that fit the chosen row, its verdict, and the kind.
const filter = document.getElementById("filter");
if (filter) {
  const show = () => {
    const { row, verdict = "", kind } = Object.fromEntries(new FormData(filter));
    let count = 0;
    for (const sample of document.querySelectorAll(".sample")) {
      let any = false;
      for (const asked of sample.querySelectorAll(".asked")) {
        const chips = row === "" ? [] : [...asked.querySelectorAll(`[data-row="${row}"]`)];
        const verdicts = row === "" ? asked.querySelectorAll("li") : chips.map((chip) => chip.closest("li"));
        const fits = (row === "" || chips.length > 0) && (kind === "" || asked.dataset.kind === kind)
          && (verdict === "" || [...verdicts].some((item) => item.classList.contains(verdict)));
        asked.hidden = !fits;
        any ||= fits;
        count += fits;
        for (const chip of asked.querySelectorAll("[data-row]")) {
          chip.classList.toggle("chosen", chip.dataset.row === row);
        }
      }
      sample.hidden = !any;
      for (const folded of sample.querySelectorAll("details")) {
        folded.hidden = !folded.querySelector(".asked:not([hidden])");
      }
    }
    filter.querySelector("output").textContent = `${count} questions`;
  };
  filter.addEventListener("change", show);
  filter.addEventListener("submit", (event) => event.preventDefault());
  show();
}
