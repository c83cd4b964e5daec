// Curves of runs by epoch, several on the same axes; the address keeps which.

const curvesDialog = document.getElementById("curves");
const quantity = document.getElementById("quantity");
const logAxes = { x: document.getElementById("log-x"), y: document.getElementById("log-y") };
const addRun = document.getElementById("add-run");
const chosenRuns = new Set();

const QUANTITIES = {
  loss: { curves: { train_loss: "training", test_loss: "test" }, title: "loss" },
  accuracy: { curves: { train_accuracy: "training", test_accuracy: "test" }, title: "accuracy" },
  lr: { curves: { lr: "" }, title: "learning rate" },
  strength: { curves: { strength: "" }, title: "strength of the noise" },
  curvature: { curves: { curvature: "" }, title: "trace of the Hessian, estimated from the noise" },
};
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C4A2F", "#888888"];

// Plotly reads some tags in its labels.
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

function traces(runs) {
  const { curves } = QUANTITIES[quantity.value];
  return [...chosenRuns].flatMap((name, place) =>
    Object.entries(curves)
      .filter(([curve]) => runs[name].curves[curve])
      .map(([curve, words]) => {
        const y = runs[name].curves[curve];
        const line = { color: COLORS[place % COLORS.length], dash: words === "test" ? "dot" : "solid" };
        const label = plain(words ? `${runs[name].name}, ${words}` : runs[name].name);
        return { x: y.map((_, epoch) => epoch + 1), y, name: label, mode: "lines", line, hovertemplate: `%{y:.4g} in epoch %{x}<extra>${label}</extra>` };
      }),
  );
}

// The run of that record or name, or the first whose name has all of the words.
function findRun(runs, text) {
  if (text in runs) return text;
  const words = text.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const names = Object.keys(runs);
  const has = (name) => words.every((word) => runs[name].name.toLowerCase().includes(word));
  return names.find((name) => runs[name].name === text) ?? (words.length ? names.find(has) : undefined);
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
    annotations: drawn.length ? [] : [{ text: chosenRuns.size ? `No ${title} is recorded of these runs.` : "No run is chosen yet.", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
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
  for (const axis of Object.keys(logAxes)) logAxes[axis].checked = (query.get("log") ?? "").includes(axis);
  await openCurves(query.get("runs").split(" "));
}

curvesDialog.addEventListener("close", keepCurves);
curvesDialog.addEventListener("change", async (event) => {
  if (event.target === addRun) {
    const { runs } = await loadData();
    const found = findRun(runs, addRun.value);
    addRun.setCustomValidity(found ? "" : "No run's name has all of these words.");
    addRun.reportValidity();
    if (!found) return;
    chosenRuns.add(found);
    addRun.value = "";
  }
  await drawCurves();
  keepCurves();
});
