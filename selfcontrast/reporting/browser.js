const LISTED = 150;

function textOf(text) {
  return typeof text === "string" ? text : text[0];
}

function textNode(text) {
  const lost = typeof text === "string" ? 0 : text[1];
  const whole = el("div", {class: "said"}, textOf(text) === "" ? el("span", {class: "empty"}, "(empty)") : textOf(text));
  if (lost) whole.append(el("span", {class: "cut"}, " […] " + lost + " characters cut"));
  return whole;
}

function drawBrowser(host, cells) {
  const state = {cell: 0, a: null, b: null, show: "all", order: "gain", query: "", open: null, most: LISTED};
  const bar = el("div", {class: "tools"}), tally = el("p", {class: "tally", role: "status"});
  const list = el("ol", {class: "prompts", tabindex: "0", "aria-label": "Prompts"}), detail = el("div", {class: "detail", "aria-live": "polite"});
  const input = el("input", {type: "search", placeholder: "Search prompts and answers", "aria-label": "Search prompts and answers", oninput: () => { state.query = input.value; state.most = LISTED; draw(); }});
  host.append(bar, tally, el("div", {class: "split"}, list, detail));

  function choose() {
    const cell = cells[state.cell], arms = Object.keys(cell.arms);
    const mean = arm => { const v = cell.means[arm].filter(x => x !== null); return v.length ? v.reduce((s, x) => s + x, 0) / v.length : -Infinity; };
    const best = arms.reduce((x, y) => (mean(y) > mean(x) ? y : x));
    const base = arms.find(arm => cell.arms[arm].n === 0 && arm !== best) || arms.find(arm => arm !== best) || best;
    Object.assign(state, {a: best, b: base, open: null, most: LISTED});
  }

  function controls() {
    const cell = cells[state.cell], arms = Object.keys(cell.arms).map(arm => [arm, arm]);
    const set = name => value => { state[name] = value; state.most = LISTED; draw(); };
    bar.replaceChildren(...[
      cells.length > 1 ? select("data", cells.map((c, i) => [i, c.dataset + ", " + c.model]), state.cell, i => { state.cell = Number(i); choose(); controls(); draw(); }).node : null,
      select("arm", arms, state.a, set("a")).node,
      select("against", arms, state.b, set("b")).node,
      select("show", [["all", "all prompts"], ["win", "wins"], ["tie", "ties"], ["loss", "losses"]], state.show, set("show")).node,
      select("order", [["gain", "largest gain first"], ["harm", "largest loss first"], ["place", "as in the data"]], state.order, set("order")).node,
      input,
    ].filter(Boolean));
  }

  const verdict = d => (d === null ? "none" : Math.abs(d) < 1e-9 ? "tie" : d > 0 ? "win" : "loss");

  function draw() {
    const cell = cells[state.cell], [a, b] = [cell.means[state.a], cell.means[state.b]];
    const place = new Map(cell.shown.map((p, i) => [p.at, i]));
    const rows = cell.ids.map((id, at) => ({id, at, d: a[at] === null || b[at] === null ? null : a[at] - b[at], shown: place.get(at)}));
    const count = {win: 0, tie: 0, loss: 0, none: 0};
    rows.forEach(row => count[verdict(row.d)]++);
    tally.replaceChildren(el("strong", {}, state.a), " against ", el("strong", {}, state.b), ": ",
      el("span", {class: "win"}, count.win + " wins"), ", ", el("span", {class: "tie"}, count.tie + " ties"), ", ",
      el("span", {class: "loss"}, count.loss + " losses"), " of " + rows.length + " prompts" + (count.none ? ", " + count.none + " without a score" : "") + ".");
    const asked = state.query.toLowerCase();
    const said = i => [cell.shown[i].prompt, cell.shown[i].target, ...[state.a, state.b].flatMap(arm => cell.answers[arm][i].map(x => x[0]))];
    const kept = rows.filter(row => (state.show === "all" || verdict(row.d) === state.show) &&
      (!asked || row.id.includes(asked) || (row.shown !== undefined && said(row.shown).some(text => textOf(text).toLowerCase().includes(asked)))));
    const sign = state.order === "gain" ? -1 : 1;
    if (state.order !== "place") kept.sort((x, y) => (x.shown === undefined) - (y.shown === undefined) || (x.d === null) - (y.d === null) || sign * (x.d - y.d) || x.at - y.at);
    if (!kept.some(row => row.at === state.open)) state.open = kept.length ? kept[0].at : null;
    list.replaceChildren(...kept.slice(0, state.most).map(row => entry(cell, row)));
    if (kept.length > state.most) list.append(el("li", {}, el("button", {type: "button", class: "quiet", onclick: () => { state.most += LISTED; draw(); }}, "Show more of " + kept.length)));
    if (!kept.length) list.append(el("li", {class: "note"}, "No prompt matches."));
    show(cell, rows[state.open]);
  }

  function entry(cell, row) {
    const text = row.shown === undefined ? "(text not in this page) " + row.id.slice(0, 12) : textOf(cell.shown[row.shown].prompt);
    const sign = row.d === null ? "–" : (row.d > 0 ? "+" : row.d < 0 ? "−" : "±") + format(Math.abs(row.d));
    return el("li", {"data-at": row.at}, el("button", {type: "button", class: row.at === state.open ? "entry current" : "entry", "aria-current": row.at === state.open ? "true" : null, onclick: () => {
      state.open = row.at;
      for (const button of list.querySelectorAll(".entry")) {
        const isOpen = button.parentElement.dataset.at === String(row.at);
        button.classList.toggle("current", isOpen);
        if (isOpen) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
      }
      show(cell, row);
      if (host.clientWidth < 760) detail.scrollIntoView({block: "start"});
    }}, el("span", {class: "delta " + verdict(row.d)}, sign), el("span", {class: "snippet"}, text.split("\n\nHuman: ").pop().slice(0, 160))));
  }

  function show(cell, row) {
    if (!row) { detail.replaceChildren(); return; }
    if (row.shown === undefined) {
      detail.replaceChildren(el("p", {class: "note"}, "Prompt " + row.id + ": its texts are not in this page, its scores are: " + format(cell.means[state.a][row.at]) + " and " + format(cell.means[state.b][row.at]) + "."));
      return;
    }
    const shown = cell.shown[row.shown];
    const target = cell.target_scores ? " · score " + format(cell.target_scores[row.at]) : "";
    detail.replaceChildren(
      el("p", {class: "label"}, "Prompt " + row.id), textNode(shown.prompt),
      el("p", {class: "label"}, "SFT target" + target), textNode(shown.target),
      el("div", {class: "sides"}, side(cell, row, state.a), side(cell, row, state.b)), others(cell, row));
  }

  function side(cell, row, arm) {
    const answers = cell.answers[arm][row.shown];
    const cards = answers.map(([text, score], k) => el("div", {class: "answer"},
      el("p", {class: "label"}, "seed " + cell.seeds[Math.floor(k / cell.samples)] + (cell.all_samples > 1 ? ", sample " + (k % cell.samples) : "") + " · score " + format(score)), textNode(text)));
    const n = cell.all_seeds * cell.all_samples;
    return el("div", {class: "side"}, el("h4", {}, arm), el("p", {class: "note"}, "mean score " + format(cell.means[arm][row.at]) + ", n = " + n + (answers.length < n ? ", " + answers.length + " shown" : "")), ...cards);
  }

  function others(cell, row) {
    const box = el("details", {class: "others"}, el("summary", {}, "All " + Object.keys(cell.arms).length + " arms on this prompt"));
    box.addEventListener("toggle", () => {
      if (box.childElementCount > 1) return;
      box.append(el("div", {class: "sides"}, ...Object.keys(cell.arms).map(arm => side(cell, row, arm))));
    });
    return box;
  }

  choose();
  controls();
  draw();
}
