// Filters, and the address that keeps them: #anchor?paper=keskar&verdict=holds

const form = document.getElementById("filters");

function readAddress() {
  const [anchor, query] = location.hash.slice(1).split("?");
  return { anchor, query: new URLSearchParams(query) };
}

// A place is worth a step back of the browser, a filter is not.
function writeAddress(changes, anchor = readAddress().anchor) {
  const { query } = readAddress();
  for (const [name, value] of Object.entries(changes)) value ? query.set(name, value) : query.delete(name);
  const text = query.toString();
  const address = `#${anchor}${text ? `?${text}` : ""}`;
  history[anchor === readAddress().anchor ? "replaceState" : "pushState"](null, "", address);
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
  if (wanted.some(([name]) => name !== "paper")) { // else the counts on folded claims say enough
    for (const claim of document.querySelectorAll(".claim:not([hidden])")) claim.open = true;
  }
  for (const counts of document.querySelectorAll(".counts")) recount(counts);
  for (const row of document.querySelectorAll(".glance tbody tr")) row.hidden = !row.querySelector(".chip:not([hidden])");
  const shown = leaves.filter((leaf) => !leaf.hidden).length;
  document.getElementById("shown").textContent = wanted.length ? `${shown} of ${leaves.length} rows and figures` : "";
  document.getElementById("charts").hidden = wanted.length > 0;
  document.getElementById("nothing").hidden = shown > 0;
}

// How many tests have which verdict, of those that are shown: around the counts, or of a claim by the protocols that they name.
function recount(counts) {
  const { of: claim, by: protocols, beside } = counts.dataset;
  const group = claim ? document.getElementById(claim) : counts.closest(".group");
  const shown = [...group.querySelectorAll("tr.leaf:not([hidden])")].filter(
    (row) => !claim || (row.dataset.protocol === protocols && row.dataset.beside === beside),
  );
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
  if (target?.matches("details")) target.open = true;
  target?.scrollIntoView();
  target?.querySelector("h2, h3")?.setAttribute("tabindex", "-1");
  target?.querySelector("h2, h3")?.focus({ preventScroll: true });
});
window.addEventListener("hashchange", () => {
  restoreFilters();
  restoreCurves();
});
