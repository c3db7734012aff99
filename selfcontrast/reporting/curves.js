const LINE_COLOURS = ["#2f81c4", "#d9730d", "#2a9d76", "#b65fa3", "#c99a06", "#8a6fd1", "#c2504a", "#4f9aa8"];
const AT_ONCE = 8;

function drawCurves(host, curves) {
  const groups = [...new Set(curves.map(c => c.group))];
  const state = {group: groups[0], figure: null, query: ""};
  const canvas = el("div", {class: "plot"}), told = el("p", {class: "note", role: "status"});
  const bar = el("div", {class: "tools"});
  host.append(bar, canvas, told);

  function draw() {
    const here = curves.filter(c => c.group === state.group);
    const figures = [...new Set(here.flatMap(c => Object.keys(c.figures)))];
    if (!figures.includes(state.figure)) state.figure = figures.includes("margin") ? "margin" : figures[0];
    const asked = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const with_figure = here.filter(c => state.figure in c.figures && asked.every(word => c.arm.includes(word)));
    const input = bar.querySelector("input");
    bar.replaceChildren(...[
      groups.length > 1 ? select("data", groups.map(g => [g, g]), state.group, g => { state.group = g; draw(); }).node : null,
      select("figure", figures.map(f => [f, f.replace(/_/g, " ")]), state.figure, f => { state.figure = f; draw(); }).node,
      input || el("input", {type: "search", placeholder: "Filter arms", "aria-label": "Filter the arms of the curves", oninput: e => { state.query = e.target.value; draw(); }}),
    ].filter(Boolean));
    if (input) input.focus();
    const traces = with_figure.flatMap((curve, i) => {
      const [mean, low, high] = curve.figures[state.figure], colour = LINE_COLOURS[i % LINE_COLOURS.length];
      const both = {type: "scatter", mode: "lines", legendgroup: curve.arm, visible: i < AT_ONCE ? true : "legendonly"};
      const label = curve.arm + " (" + curve.seeds + (curve.seeds > 1 ? " seeds)" : " seed)");
      const band = curve.seeds > 1 ? [{...both, x: [...curve.steps, ...[...curve.steps].reverse()], y: [...high, ...[...low].reverse()], fill: "toself", fillcolor: colour + "22", line: {width: 0}, hoverinfo: "skip", showlegend: false}] : [];
      return [...band, {...both, x: curve.steps, y: mean, name: label, line: {color: colour, width: 1.8}, hovertemplate: "<b>" + curve.arm + "</b><br>step %{x:.0f}: %{y:.4g}<extra></extra>"}];
    });
    const lines = Math.min(with_figure.length, 40);
    const narrow = host.clientWidth < 620;
    const layout = {height: narrow ? 320 + 21 * lines : Math.max(380, 60 + 20 * lines), showlegend: true, xaxis: {title: {text: "optimiser step"}, automargin: true}, yaxis: {title: {text: state.figure.replace(/_/g, " ")}, automargin: true}, legend: narrow ? {y: -0.25, yanchor: "top", yref: "paper", orientation: "v"} : {}};
    plot(canvas, traces, layout);
    const hidden = Math.max(0, with_figure.length - AT_ONCE);
    told.textContent = with_figure.length + " of " + here.length + " trainings have this figure" + (asked.length ? " and match the filter" : "") + (hidden ? "; " + hidden + " are off until you click their name." : ".");
  }
  draw();
}
