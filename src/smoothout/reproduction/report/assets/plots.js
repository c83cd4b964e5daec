// Drawing with Plotly in the colors of the page.

function pageColors() {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  return { text, line };
}

function themed(layout) {
  const { text, line } = pageColors();
  const themedLayout = { ...layout, paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { ...layout.font, color: text } };
  const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
  for (const axis of new Set([...axes, "xaxis", "yaxis"])) {
    themedLayout[axis] = { gridcolor: line, zerolinecolor: line, ...layout[axis] };
  }
  const below = -90 / ((layout.height ?? 450) - 80); // pixels, below the axis and its title
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom"; // fingers scroll the page
  return { dragmode, margin: { l: 60, r: 20, t: 30, b: 50 }, legend: { orientation: "h", y: below }, modebar: { bgcolor: "transparent" }, hovermode: "closest", ...themedLayout };
}

async function draw(container, data, layout) {
  const plotly = await loadPlotly();
  await plotly.react(container, data, themed(layout), { responsive: true, displaylogo: false });
  container.dataset.drawn = "";
}

async function drawChart(container) {
  const { data, layout } = (await loadData()).charts[container.dataset.chart];
  await draw(container, data, layout);
}

const charts = [...document.querySelectorAll("[data-chart]")];
const nearby = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        nearby.unobserve(entry.target);
        drawChart(entry.target);
      }
    }
  },
  { rootMargin: "400px" },
);
charts.forEach((chart) => nearby.observe(chart));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  charts.filter((chart) => "drawn" in chart.dataset).forEach(drawChart);
});
