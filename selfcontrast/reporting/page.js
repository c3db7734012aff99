for (const host of document.querySelectorAll("[data-table]")) {
  const table = DATA[host.dataset.table], box = host.closest("details");
  const draw = () => { if (!host.childElementCount) drawTable(host, table); };
  if (box.open) draw();
  box.addEventListener("toggle", () => { if (box.open) draw(); });
}
setTimeout(() => {
  for (const host of document.querySelectorAll("[data-chart]")) {
    const figure = DATA[host.dataset.chart];
    whenNear(host, () => plot(host, figure.data, figure.layout));
  }
  for (const host of document.querySelectorAll("[data-curves]")) whenNear(host, () => drawCurves(host, DATA[host.dataset.curves]));
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
window.addEventListener("beforeprint", () => { for (const box of document.querySelectorAll("details.table")) box.open = true; });
