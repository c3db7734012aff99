const drawn = new Set();
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

// The browser is spared plotly.js until the page stands: its text waits in an element that does not run.
let plotly = null;
async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = await unpack("plotly");
  document.body.append(script);
}

async function plot(host, data, layout) {
  host.figure = {data, layout};
  drawn.add(host);
  host.style.height = (layout.height || 340) + "px";
  await (plotly ??= loadPlotly());
  return Plotly.react(host, data, dressed(layout), {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"], displayModeBar: "hover"});
}

// A figure is drawn when it comes near the window: a page of a hundred figures opens as fast as one of three.
function whenNear(host, draw) {
  const watch = new IntersectionObserver(entries => {
    if (entries.some(e => e.isIntersecting)) { watch.disconnect(); draw(); }
  }, {rootMargin: "600px"});
  watch.observe(host);
}

function redress() {
  for (const host of drawn) plot(host, host.data || host.figure.data, host.figure.layout);
}
