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

async function drawPicture(container) {
  const { data, layout } = (await loadData()).pictures[container.dataset.picture];
  await draw(container, data, layout);
}

const pictures = [...document.querySelectorAll("[data-picture]")];
const nearby = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        nearby.unobserve(entry.target);
        drawPicture(entry.target);
      }
    }
  },
  { rootMargin: "400px" },
);
pictures.forEach((picture) => nearby.observe(picture));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  pictures.filter((picture) => "drawn" in picture.dataset).forEach(drawPicture);
});
