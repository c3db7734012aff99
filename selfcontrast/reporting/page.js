const wholeTables = [];
for (const host of document.querySelectorAll("[data-table]")) {
  const box = host.closest("details");
  let table = null;
  const draw = () => (table ??= drawTable(host, DATA[host.dataset.table]));
  if (box.open) draw();
  box.addEventListener("toggle", () => { if (box.open) draw(); });
  wholeTables.push(() => { box.open = true; draw().showAll(); });
}
setTimeout(async () => {
  for (const host of document.querySelectorAll("[data-chart]")) {
    const figure = DATA[host.dataset.chart];
    whenNear(host, () => plot(host, figure.data, figure.layout));
  }
  for (const host of document.querySelectorAll("[data-curves]")) whenNear(host, () => drawCurves(host, DATA[host.dataset.curves]));
  await plotlyIsThere;
  release();
}, 0);
for (const host of document.querySelectorAll("[data-browser]")) whenNear(host, () => drawBrowser(host, DATA[host.dataset.browser]));

const button = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
function isDark() {
  return (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
}
function label() {
  button.textContent = isDark() ? "Light" : "Dark";
}
button.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  label();
  redress();
});
system.addEventListener("change", () => { label(); redress(); });
label();

const contents = document.getElementById("contents");
if (matchMedia("(max-width: 1099px)").matches) contents.open = false;
const links = new Map([...contents.querySelectorAll("a")].map(a => [a.hash.slice(1), a]));
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) links.get(entry.target.id).classList.toggle("here", entry.isIntersecting);
}, {rootMargin: "-20% 0px -70% 0px"});
for (const section of document.querySelectorAll("main section")) seen.observe(section);

// Paper shows all of it, in light colours. Whatever waits for data is here by now, so that all is drawn before this returns
// or in the microtasks behind it, for which printing waits.
let themeBefore = null;
function beforePrint() {
  if (isPrinting) return;
  isPrinting = true;
  themeBefore = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  for (const show of wholeTables) show();
  redress();
  for (const host of [...waiting.keys()]) drawNow(host);
}
function afterPrint() {
  if (!isPrinting) return;
  isPrinting = false;
  if (themeBefore === undefined) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = themeBefore;
  redress();
}
window.addEventListener("beforeprint", beforePrint);
window.addEventListener("afterprint", afterPrint);
matchMedia("print").addEventListener("change", change => (change.matches ? beforePrint() : afterPrint()));
