"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort;
    const all = [...table.tBodies[0].rows], numeric = all.every((row) => key(row) === "" || Number.isFinite(Number(key(row))));
    const rows = all.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }));
}
for (const field of document.querySelectorAll(".find input")) {
  const rows = [...field.closest(".find").nextElementSibling.querySelectorAll("tbody tr")];
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase().split(/\s+/);
    for (const row of rows) {
      const words = `${row.cells[1].textContent.replaceAll("_", " ")} ${row.cells[1].textContent} ${row.cells[2].textContent}`.toLowerCase();
      row.classList.toggle("off", !wanted.every((word) => words.includes(word)));
    }
  });
}
const nav = document.querySelector("nav");
const reach = () => { // what a link leads to is opened, and stands below the bar of links
  const sticky = nav && getComputedStyle(nav).position === "sticky";
  document.documentElement.style.setProperty("--nav", `${sticky ? nav.offsetHeight : 0}px`);
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", reach);
addEventListener("load", () => { // who comes back or reloads stays where they were
  if (performance.getEntriesByType("navigation")[0]?.type === "navigate") reach();
});
document.addEventListener("click", (event) => { // the same link again makes no hashchange
  const link = event.target.closest("a[href^='#']");
  if (link && link.getAttribute("href") === location.hash) setTimeout(reach);
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  document.querySelectorAll(".stack").forEach((s) => s.classList.remove("moving", "second"));
});
addEventListener("afterprint", () => document.querySelectorAll(".stack").forEach((s) => s.classList.add("moving")));
for (const figure of document.querySelectorAll(".flicker")) {
  const stack = figure.querySelector(".stack"), button = figure.querySelector("button");
  let running = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const say = () => { button.textContent = running ? "Pause" : "Play"; };
  stack.classList.add("moving");
  button.addEventListener("click", () => { running = !running; say(); });
  stack.addEventListener("click", () => stack.classList.toggle("second"));
  setInterval(() => { if (running) stack.classList.toggle("second"); }, 900);
  say();
}
for (const button of document.querySelectorAll("[data-copy]")) {
  const source = document.getElementById(button.dataset.copy), label = button.textContent;
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(source);
    const done = document.execCommand("copy"); // pages from disk have no clipboard of their own
    if (done) getSelection().removeAllRanges();
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = label; }, 2500);
  });
}
const study = document.querySelector("table.study");
if (study) {
  const words = document.getElementById("words"), word = document.getElementById("word"), shown = document.getElementById("shown");
  const rows = [...study.tBodies[0].rows], points = [...document.querySelectorAll("svg [data-row]")];
  const texts = new Map(rows.map((row) => [row, (row.textContent + " " + row.cells[1].title).toLowerCase()]));
  const filter = () => {
    const wanted = words.value.trim().toLowerCase().split(/\s+/), off = new Set();
    for (const row of rows) {
      const hidden = (word.value && row.dataset.word !== word.value) || !wanted.every((w) => texts.get(row).includes(w));
      row.classList.toggle("off", Boolean(hidden));
      if (hidden) off.add(row.dataset.row);
    }
    points.forEach((point) => point.classList.toggle("off", off.has(point.dataset.row)));
    shown.textContent = `${rows.length - off.size} of ${rows.length} shown`;
  };
  words.addEventListener("input", filter);
  word.addEventListener("change", filter);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll(".filters [data-kind]").forEach((box) => box.addEventListener("change", () => study.classList.toggle(`no-${box.dataset.kind}`, !box.checked)));
  filter();
}
