// One listener for all buttons; what the address asks for; everything open in print but what was not run.

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.number) openNumber(Number(button.dataset.number));
  else if (button.dataset.run) openCurves(button.dataset.run.split(" "));
  else if (button.dataset.remove) {
    chosenRuns.delete(button.dataset.remove);
    drawCurves().then(keepCurves);
  } else if (button.id === "open-curves") openCurves();
  else if (button.id === "clear") form.reset();
  else if (button.matches(".copy")) copyText(button);
});

let closedForPrint = [];
window.addEventListener("beforeprint", () => {
  closedForPrint = [...document.querySelectorAll("details:not([open], .unrun)")];
  closedForPrint.forEach((details) => (details.open = true));
  charts.filter((chart) => !("drawn" in chart.dataset)).forEach(drawChart);
});
window.addEventListener("afterprint", () => closedForPrint.forEach((details) => (details.open = false)));

restoreFilters();
restoreCurves();
