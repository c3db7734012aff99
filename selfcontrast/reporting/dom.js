// Elements are made by this function alone, and every text reaches the page as textContent: nothing is parsed as HTML.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child.nodeType ? child : document.createTextNode(String(child)));
  return node;
}

const DATA = JSON.parse(await unpack("data"));

function select(label, options, value, change) {
  const box = el("select", {onchange: () => change(box.value)});
  for (const [key, text] of options) box.append(el("option", {value: key}, text));
  box.value = value;
  return {box, node: el("label", {class: "control"}, el("span", {}, label), box)};
}

function format(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return Math.abs(value) >= 10000 ? value.toLocaleString("en-US") : String(value);
  const size = Math.abs(value);
  if (size < 0.0005 || size >= 1e7) return value.toExponential(1);
  if (size >= 1000) return value.toLocaleString("en-US", {maximumFractionDigits: 1});
  return size >= 100 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : value.toFixed(3);
}
