// What stands behind a number: its seeds, records, machines and command.

const evidenceDialog = document.getElementById("evidence");

function commandLine(text) {
  const copy = element("button", { type: "button", class: "copy" }, "Copy");
  return element("p", { class: "command" }, element("code", {}, text), copy);
}

// A line for each seed; differences have no records of their own.
function seedTable(number, data) {
  const isRecorded = number.values.some((value) => value.record);
  const heads = isRecorded ? ["seed", "value", "record", "made on", "versions", "run"] : ["seed", "value"];
  const rows = number.values.map((value) => {
    const cells = [value.seed, [value.value, value.note].filter(Boolean).join(", ")];
    if (isRecorded) {
      const { machine, versions } = data.records[value.record];
      const run = value.run ? element("button", { type: "button", class: "run", "data-run": value.run }, "curves") : "";
      cells.push(value.record, machine, versions, run);
    }
    return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
  });
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  return element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "By seed" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function factList(facts) {
  const rows = Object.entries(facts).map(([name, text]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, text)),
  );
  return element("table", {}, element("tbody", {}, ...rows));
}

// Buttons for the curves of the trainings that are compared, by seed.
function comparedRuns(places, data) {
  const bySeed = new Map();
  for (const { seed, run } of places.flatMap((place) => data.numbers[place].values)) {
    if (run) bySeed.set(seed, new Set([...(bySeed.get(seed) ?? []), run]));
  }
  const several = [...bySeed].filter(([, runs]) => runs.size > 1);
  const buttons = several.map(([seed, runs]) => element("button", { type: "button", class: "run", "data-run": [...runs].join(" ") }, `seed ${seed}`));
  return buttons.length ? [element("p", { class: "pairs" }, "Curves of what is compared: ", ...buttons.flatMap((button) => [button, " "]))] : [];
}

function numberView(number, data, level = "h3") {
  const parts = [];
  if (number.facts) parts.push(factList(number.facts));
  const words = [number.measured, number.scope, number.published && `published: ${number.published}`].filter(Boolean);
  if (words.length) parts.push(element("p", {}, words.join("; ")));
  if (number.values?.length) parts.push(seedTable(number, data));
  const runs = [...new Set((number.values ?? []).map((value) => value.run).filter(Boolean))];
  if (runs.length > 1) {
    parts.push(element("p", {}, element("button", { type: "button", class: "run", "data-run": runs.join(" ") }, `Curves of all ${runs.length} runs`)));
  }
  if (number.missing?.length) {
    parts.push(element("p", { class: "quiet" }, `Not run: seed ${number.missing.join(", ")}${number.cost ? `, ${number.cost}` : ""}`));
  }
  parts.push(...comparedRuns(number.compared ?? [], data));
  if (number.command) parts.push(commandLine(number.command));
  if (number.claim !== undefined) {
    const claim = data.numbers[number.claim];
    parts.push(element("section", {}, element(level, {}, `Claim: ${claim.title}`), factList(claim.facts)));
  }
  for (const place of number.compared ?? []) {
    const other = data.numbers[place];
    parts.push(element("section", {}, element(level, {}, other.title), ...numberView(other, data, "h4")));
  }
  return parts;
}

async function openNumber(place) {
  const data = await loadData();
  const number = data.numbers[place];
  const close = element("button", { class: "close", "aria-label": "Close" }, "×");
  const head = element("form", { method: "dialog" }, element("h2", { id: "evidence-title" }, number.title), close);
  evidenceDialog.replaceChildren(head, ...numberView(number, data));
  if (!evidenceDialog.open) evidenceDialog.showModal();
  evidenceDialog.scrollTop = 0;
}

// Pages from the disk may lack the clipboard, or permission to use it: the browser's own copy of a selection needs neither.
function copySelected(text, place) {
  const field = element("textarea", { readonly: "", class: "unseen", "aria-hidden": "true" });
  field.value = text;
  place.append(field); // within the dialog, if one is open: the rest of the page takes no focus
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}

async function copyText(button) {
  const text = button.parentElement.querySelector("code").textContent;
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copied = copySelected(text, button.parentElement);
    button.focus();
  }
  button.textContent = copied ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}
