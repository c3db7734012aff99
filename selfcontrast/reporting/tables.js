const PAGE_ROWS = 200;
const plain = cell => (cell !== null && typeof cell === "object" ? cell.v : cell);
const words = cell => (cell !== null && typeof cell === "object" ? [cell.t, cell.i, cell.n, cell.m === "alike" ? "≈" : ""].filter(Boolean).join(" ") : format(cell));

function cellOf(cell, numeric) {
  if (cell === null || typeof cell !== "object") {
    const title = typeof cell === "number" && format(cell) !== String(cell) ? String(cell) : null;
    return el("td", {class: numeric ? "number" : "word", title}, format(cell));
  }
  const value = el(cell.m === "best" ? "strong" : "span", {class: "value"}, cell.t);
  const alike = cell.m === "alike" ? el("span", {class: "alike", title: "not distinguishable from the best"}, "≈") : null;
  const small = cell.i || cell.n ? el("span", {class: "beside"}, [cell.i, cell.n].filter(Boolean).join("  ")) : null;
  return el("td", {class: "number rich" + (cell.m ? " " + cell.m : "")}, value, alike, small);
}

function compare(a, b) {
  const [x, y] = [plain(a), plain(b)];
  if (x === null || x === undefined) return y === null || y === undefined ? 0 : 1;
  if (y === null || y === undefined) return -1;
  if (typeof x === "number" && typeof y === "number") return x - y;
  return String(x).localeCompare(String(y), "en", {numeric: true});
}

function drawTable(host, table) {
  const numeric = table.columns.map((_, c) => table.rows.some(r => typeof plain(r[c]) === "number") || table.rows.every(r => plain(r[c]) === null));
  const texts = table.rows.map(row => row.map(words).join(" ").toLowerCase());
  const state = {column: null, ascending: true, query: "", most: PAGE_ROWS};
  const body = el("tbody"), counter = el("span", {class: "count", role: "status"});
  const rest = el("button", {type: "button", class: "quiet", onclick: () => { state.most = Infinity; draw(); }});
  const heads = table.columns.map((name, c) => {
    const button = el("button", {type: "button", onclick: () => {
      state.ascending = state.column === c ? !state.ascending : !numeric[c];
      state.column = c;
      draw();
    }}, name);
    return el("th", {scope: "col", class: numeric[c] ? "number" : "word"}, button);
  });
  const input = el("input", {type: "search", placeholder: "Filter rows", "aria-label": "Filter the rows of " + table.title, oninput: () => { state.query = input.value; draw(); }});
  const save = el("button", {type: "button", class: "quiet", onclick: () => download(table)}, "Save .tsv");

  function draw() {
    const asked = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    let rows = table.rows.map((row, i) => [row, i]).filter(([, i]) => asked.every(word => texts[i].includes(word)));
    if (state.column !== null) {
      const known = rows.filter(([r]) => plain(r[state.column]) !== null && plain(r[state.column]) !== undefined);
      const unknown = rows.filter(([r]) => plain(r[state.column]) === null || plain(r[state.column]) === undefined);
      known.sort((a, b) => (state.ascending ? 1 : -1) * compare(a[0][state.column], b[0][state.column]) || a[1] - b[1]);
      rows = [...known, ...unknown];  // what has no value stays below in either direction
    }
    heads.forEach((th, c) => th.setAttribute("aria-sort", state.column !== c ? "none" : state.ascending ? "ascending" : "descending"));
    body.replaceChildren(...rows.slice(0, state.most).map(([row]) => el("tr", {}, ...row.map((cell, c) => cellOf(cell, numeric[c])))));
    counter.textContent = rows.length === table.rows.length ? "" : rows.length + " of " + table.rows.length + " rows";
    rest.hidden = rows.length <= state.most;
    rest.textContent = "Show all " + rows.length + " rows";
  }

  draw();
  const tools = el("div", {class: "tools"}, table.rows.length > 5 ? input : null, counter, save);
  host.append(tools, el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": table.title}, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)), rest);
  return {showAll: () => { state.most = Infinity; draw(); }};
}

function download(table) {
  const clean = text => String(text).replace(/[\t\r\n]+/g, " ");
  const lines = [table.columns, ...table.rows.map(row => row.map(words))].map(row => row.map(clean).join("\t"));
  const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/tab-separated-values"}));
  el("a", {href: url, download: table.title.replace(/\W+/g, "-").toLowerCase() + ".tsv"}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
