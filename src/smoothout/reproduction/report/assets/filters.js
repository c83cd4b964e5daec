// Filters, and the address that keeps them: #anchor?paper=keskar&verdict=holds

const form = document.getElementById("filters");

function readAddress() {
  const [anchor, query] = location.hash.slice(1).split("?");
  return { anchor, query: new URLSearchParams(query) };
}

function writeAddress(changes, anchor = readAddress().anchor) {
  const { query } = readAddress();
  for (const [name, value] of Object.entries(changes)) value ? query.set(name, value) : query.delete(name);
  const text = query.toString();
  history.replaceState(null, "", `#${anchor}${text ? `?${text}` : ""}`);
}

// What an element is about, as it or an element around it says; several words are alternatives.
function matches(leaf, name, wanted) {
  const said = leaf.closest(`[data-${name}]`)?.dataset[name] ?? "";
  return name === "network" ? said === wanted : said.split(" ").includes(wanted);
}

function applyFilters() {
  const wanted = [...new FormData(form)].filter(([, value]) => value);
  const leaves = [...document.querySelectorAll(".leaf")];
  for (const leaf of leaves) leaf.hidden = !wanted.every(([name, value]) => matches(leaf, name, value));
  for (const table of document.querySelectorAll("table:has(.leaf)")) table.hidden = !table.querySelector(".leaf:not([hidden])");
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = wanted.length > 0 && !group.querySelector(".leaf:not([hidden])");
  }
  for (const counts of document.querySelectorAll(".counts")) recount(counts);
  const shown = leaves.filter((leaf) => !leaf.hidden).length;
  document.getElementById("shown").textContent = wanted.length ? `${shown} of ${leaves.length} rows and figures` : "";
  document.getElementById("pictures").hidden = wanted.length > 0;
  document.getElementById("nothing").hidden = shown > 0;
}

// How many tests have which verdict, of those that are shown.
function recount(counts) {
  const shown = [...counts.closest(".group").querySelectorAll("tr.leaf:not([hidden])")];
  for (const chip of counts.children) {
    const number = shown.filter((row) => row.dataset.verdict === chip.dataset.counted).length;
    chip.querySelector(".count").textContent = number;
    chip.hidden = number === 0;
  }
}

// The browser itself finds no element whose name ends with "?paper=...".
function restoreFilters() {
  const { anchor, query } = readAddress();
  for (const select of form.elements) {
    if (select.name) select.value = [...select.options].some((option) => option.value === query.get(select.name)) ? query.get(select.name) : "";
  }
  applyFilters();
  if (query.toString()) document.getElementById(anchor)?.scrollIntoView();
}

form.addEventListener("change", () => {
  applyFilters();
  writeAddress(Object.fromEntries(new FormData(form)));
});
form.addEventListener("reset", () => {
  setTimeout(() => {
    applyFilters();
    writeAddress(Object.fromEntries(new FormData(form)));
  });
});
form.addEventListener("submit", (event) => event.preventDefault());

// Links within the page keep the filters.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  const anchor = link.getAttribute("href").slice(1);
  writeAddress({}, anchor);
  const target = document.getElementById(anchor);
  if (target?.hidden) form.reset();
  target?.scrollIntoView();
  target?.querySelector("h2, h3")?.setAttribute("tabindex", "-1");
  target?.querySelector("h2, h3")?.focus({ preventScroll: true });
});
window.addEventListener("hashchange", () => {
  restoreFilters();
  restoreCurves();
});
