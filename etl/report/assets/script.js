"use strict";

// Tables: clicking a heading sorts by it, numbers in descending order first. Long tables are collapsed at first.
const SHORT = 10;
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  let isShort = body.rows.length > SHORT + 3;
  const fold = () => [...body.rows].forEach((row, index) => row.classList.toggle("beyond", isShort && index >= SHORT));
  if (isShort) {
    const more = document.createElement("button");
    more.type = "button";
    more.className = "more";
    more.textContent = `Show all ${body.rows.length} rows`;
    more.addEventListener("click", () => {
      isShort = false;
      fold();
      more.remove();
    });
    table.parentElement.after(more);
    fold();
  }
  headings.forEach((heading, index) => {
    heading.firstElementChild.addEventListener("click", () => {
      const rows = [...body.rows];
      const key = (row) => row.cells[index].dataset.sort;
      const numeric = rows.every((row) => key(row) !== "" && Number.isFinite(Number(key(row))));
      const before = heading.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric;
      const compare = numeric ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
      rows.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows);
      fold();
    });
  });
}

// Plots over days: the values of the day or period under the pointer. The tips are newest first.
const tip = document.getElementById("tip");
for (const figure of document.querySelectorAll("figure[data-tips]")) {
  const tips = JSON.parse(figure.dataset.tips);
  const show = (event) => {
    const area = event.target.closest("svg")?.querySelector("path.background")?.getBoundingClientRect();
    const left = area ? (area.right - event.clientX) / area.width : -1;
    const index = left < 1 ? Math.floor((left * figure.dataset.days) / figure.dataset.period) : -1;
    tip.hidden = !(index in tips);
    if (tip.hidden) return;
    tip.textContent = tips[index];
    const start = Math.min(event.clientX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = event.clientY - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, start)}px`;
    tip.style.top = `${above > 8 ? above : event.clientY + 16}px`;
  };
  figure.addEventListener("pointermove", show);
  figure.addEventListener("pointerdown", show);
  figure.addEventListener("pointerleave", () => { tip.hidden = true; });
}
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
