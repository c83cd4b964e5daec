"use strict";
// What the page shows on demand: packed into script elements of a page that is alone, files beside one that is hosted.

async function unpack(name) {
  const packed = document.getElementById(`packed-${name}`).textContent;
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function runScript(attributes) {
  return new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), attributes);
    script.onload = resolve;
    script.onerror = reject;
    document.head.append(script);
    if (attributes.text) resolve();
  });
}

const isPacked = Boolean(document.getElementById("packed-data"));

// Each is loaded once, when it is first needed.
function once(load) {
  let promise;
  return () => (promise ??= load());
}

const loadData = once(async () => (isPacked ? JSON.parse(await unpack("data")) : window.REPORT_DATA));

const loadPlotly = once(async () => {
  await runScript(isPacked ? { text: await unpack("plotly") } : { src: "plotly.min.js" });
  return window.Plotly;
});

// An element with text, never markup: labels of records are anybody's.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
