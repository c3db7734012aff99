const drawn = new Set();
const PRINTED_WIDTH = 600;  // pixels of a figure, which is not drawn anew for the width of the paper
let isPrinting = false;
const token = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed() {
  const axis = {gridcolor: token("--grid"), zerolinecolor: token("--grid"), linecolor: token("--line"), tickcolor: token("--line")};
  const text = {color: token("--soft"), family: token("--sans"), size: 12};
  const slider = {font: {...text, size: 11}, bgcolor: token("--grid"), activebgcolor: token("--accent"), bordercolor: token("--line"), tickcolor: token("--line")};
  return {axis, text, slider, hover: {bgcolor: token("--raised"), bordercolor: token("--line"), font: {...text, color: token("--ink")}}};
}

function dressed(layout) {
  const theme = themed();
  const axis = own => ({...own, ...theme.axis, title: {...(own && own.title), font: theme.text}});
  const more = layout.sliders ? {sliders: layout.sliders.map(s => ({...s, ...theme.slider}))} : {};
  return {
    margin: {l: 56, r: 14, t: 14, b: 46}, hovermode: "closest", dragmode: false, ...layout, ...more,
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), font: theme.text, hoverlabel: theme.hover,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  };
}

// The browser is spared plotly.js until a figure is drawn: its text waits where it does not run.
let plotlyText = null;
const plotlyIsThere = unpack("plotly").then(text => { plotlyText = text; });
function runPlotly() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = plotlyText;
  document.body.append(script);
}

async function plot(host, data, layout) {
  host.figure = {data, layout};
  drawn.add(host);
  host.style.height = (layout.height || 340) + "px";
  await plotlyIsThere;
  runPlotly();
  const size = isPrinting ? {width: PRINTED_WIDTH, autosize: false} : {};
  return Plotly.react(host, data, {...dressed(layout), ...size}, {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"], displayModeBar: "hover"});
}

// A figure is drawn when it comes near the window: a page of a hundred figures opens as fast as one of three.
const waiting = new Map();
const watch = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) drawNow(entry.target);
}, {rootMargin: "600px"});
function whenNear(host, draw) {
  waiting.set(host, draw);
  watch.observe(host);
}
function drawNow(host) {
  const draw = waiting.get(host);
  watch.unobserve(host);
  waiting.delete(host);
  if (draw) draw();
}

function redress() {
  for (const host of drawn) plot(host, host.data || host.figure.data, host.figure.layout);
}
