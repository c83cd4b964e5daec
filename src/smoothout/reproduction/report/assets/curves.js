// Curves of runs by epoch, several on the same axes; the address keeps which.

const curvesDialog = document.getElementById("curves");
const quantity = document.getElementById("quantity");
const logAxes = { x: document.getElementById("log-x"), y: document.getElementById("log-y") };
const parts = document.getElementById("parts");
const addRun = document.getElementById("add-run");
const found = document.getElementById("run-found");
const chosenRuns = new Set();

const QUANTITIES = {
  loss: { curves: { train_loss: "training", test_loss: "test" }, title: "loss" },
  accuracy: { curves: { train_accuracy: "training", test_accuracy: "test" }, title: "accuracy" },
  lr: { curves: { lr: "" }, title: "learning rate" },
  strength: { curves: { strength: "" }, title: "strength of the noise" },
  curvature: { curves: { curvature: "" }, title: "trace of the Hessian, estimated from the noise" },
};
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C4A2F", "#888888"];
const MOST_FOUND = COLORS.length; // runs that one search may add

// Plotly reads some tags in its labels.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

function traces(runs) {
  const { curves } = QUANTITIES[quantity.value];
  return [...chosenRuns].flatMap((name, place) =>
    Object.entries(curves)
      .filter(([curve, words]) => runs[name].curves[curve] && (!words || !parts.value || words === parts.value))
      .map(([curve, words]) => {
        const y = runs[name].curves[curve];
        const line = { color: COLORS[place % COLORS.length], dash: words === "test" ? "dot" : "solid" };
        const label = plain(words ? `${runs[name].name}, ${words}` : runs[name].name);
        return { x: y.map((_, epoch) => epoch + 1), y, name: label, mode: "lines", line, hovertemplate: `%{y:.4g} in epoch %{x}<extra>${label}</extra>` };
      }),
  );
}

// "seed 1" is one word, so that its number is not found in another one's place.
function wordsOf(text) {
  return text.toLowerCase().replace(/\bseed\s+(?=\d)/g, "seed-").split(/[\s,]+/).filter(Boolean);
}

// The run of that record or name, or all whose names have all of the words: numbers whole, others from their beginning.
function findRuns(runs, text) {
  const names = Object.keys(runs);
  const exact = names.filter((name) => name === text || runs[name].name === text);
  const wanted = wordsOf(text);
  if (exact.length || !wanted.length) return exact;
  const has = (said, word) => (/^(seed-)?\d+$/.test(word) ? said.includes(word) : said.some((one) => one.startsWith(word)));
  return names.filter((name) => wanted.every((word) => has(wordsOf(runs[name].name), word)));
}

// Adds the runs that the words find; says what came of it.
function addRuns(runs) {
  const names = findRuns(runs, addRun.value);
  const added = names.filter((name) => !chosenRuns.has(name));
  if (!names.length) return "No run's name has all of these words.";
  if (!added.length) return "Already shown.";
  if (added.length > MOST_FOUND) return `${names.length} runs match: add a word, for example a seed.`;
  added.forEach((name) => chosenRuns.add(name));
  addRun.value = "";
  return `${added.length} added.`;
}

async function drawCurves() {
  const { runs } = await loadData();
  const { title } = QUANTITIES[quantity.value];
  const drawn = traces(runs);
  const layout = {
    height: 440,
    showlegend: false,
    xaxis: { title: { text: "epoch" }, type: logAxes.x.checked ? "log" : "linear" },
    yaxis: { title: { text: title }, exponentformat: "power", type: logAxes.y.checked ? "log" : "linear" },
    annotations: drawn.length ? [] : [{ text: chosenRuns.size ? `No ${title} is recorded of these runs.` : "No run is chosen yet: name some above, or select a difference in a table.", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
  };
  const items = [...chosenRuns].map((name, place) => {
    const remove = element("button", { type: "button", class: "remove", "data-remove": name, "aria-label": `Remove ${runs[name].name}` }, "×");
    const swatch = element("span", { class: "swatch", style: `background: ${COLORS[place % COLORS.length]}` });
    return element("li", {}, remove, " ", swatch, ` ${runs[name].name}`);
  });
  document.getElementById("chosen-runs").replaceChildren(...items);
  await draw(document.getElementById("curves-plot"), drawn, layout);
}

function keepCurves() {
  const open = curvesDialog.open;
  writeAddress({
    runs: open ? [...chosenRuns].join(" ") : "",
    show: open ? quantity.value : "",
    part: open ? parts.value : "",
    log: open ? Object.keys(logAxes).filter((axis) => logAxes[axis].checked).join("") : "",
  });
}

async function openCurves(names = []) {
  const { runs } = await loadData();
  names.filter((name) => name in runs).forEach((name) => chosenRuns.add(name));
  const options = Object.values(runs).map((run) => element("option", { value: run.name }));
  document.getElementById("run-names").replaceChildren(...options);
  if (!curvesDialog.open) curvesDialog.showModal();
  await drawCurves();
  keepCurves();
}

async function restoreCurves() {
  const { query } = readAddress();
  if (!query.get("runs")) return;
  if (query.get("show") in QUANTITIES) quantity.value = query.get("show");
  if ([...parts.options].some((option) => option.value === query.get("part"))) parts.value = query.get("part");
  for (const axis of Object.keys(logAxes)) logAxes[axis].checked = (query.get("log") ?? "").includes(axis);
  await openCurves(query.get("runs").split(" "));
}

curvesDialog.addEventListener("close", keepCurves);
curvesDialog.addEventListener("change", async (event) => {
  if (event.target === addRun) {
    const { runs } = await loadData();
    found.textContent = addRuns(runs);
  }
  await drawCurves();
  keepCurves();
});
