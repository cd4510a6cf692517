// Controls and keyboard; `update` makes the page agree with the state.
const controls = document.querySelectorAll("[data-state]");
const filtersOff = Object.fromEntries(["q", "by", "class", "status", "check", "sort", "desc", "page"]
  .map((name) => [name, FALLBACKS[name]]));
const keys = document.getElementById("keys");
const STYLE = new Set(["alpha", "cmap", "scale", "max", "print"]);

function option(value, text) {
  return element("option", { value, textContent: text });
}

function fillChoices() {
  const labelled = samples.some((sample) => sample.label !== null);
  const roles = Object.entries(ROLES).filter(([name]) => name !== "label" || labelled);
  control("by").replaceChildren(...roles.map(([name, [text]]) => option(name, text)));
  control("sort").replaceChildren(...Object.entries(SORTS).map(([name, [text]]) => option(name, text)));
  control("cmap").replaceChildren(...Object.keys(index.cmaps).map((name) => option(name, name)));
}

const control = (name) => document.querySelector(`#controls [data-state="${name}"]`);

let listedRole = null;
function fillClasses() {
  if (listedRole === state.by) return;
  listedRole = state.by;
  const [, key, name] = ROLES[state.by];
  const counts = new Map();
  for (const sample of samples) {
    if (key(sample) === null) continue;
    const entry = counts.get(key(sample)) ?? { name: name(sample), count: 0 };
    entry.count += 1;
    counts.set(key(sample), entry);
  }
  const sorted = [...counts].sort(([, a], [, b]) => collator.compare(a.name, b.name));
  control("class").replaceChildren(option("", "All"),
    ...sorted.map(([value, entry]) => option(value, `${entry.name} (${entry.count})`)));
}

function showControls() {
  fillClasses();
  controls.forEach((input) => {
    const value = String(state[input.dataset.state] ?? "");
    if (input.value !== value) input.value = value;
  });
  document.querySelectorAll('[data-out="alpha"]').forEach((out) => { out.textContent = `${Math.round(100 * state.alpha)}%`; });
  document.querySelectorAll("[data-alpha]").forEach((button) => {
    const value = Number(button.dataset.alpha);
    button.ariaPressed = String(value === state.alpha || (value === 0.5 && state.alpha > 0 && state.alpha < 1));
  });
  document.querySelectorAll("[data-when]").forEach((node) => { node.hidden = state.scale !== node.dataset.when; });
  control("max").placeholder = short(index.peak);
  const direction = document.getElementById("direction");
  direction.textContent = state.desc ? "↓" : "↑";
  direction.ariaLabel = state.desc ? "Descending; change to ascending" : "Ascending; change to descending";
  document.querySelectorAll("[data-tab]").forEach((button) => {
    button.ariaCurrent = button.dataset.tab === state.tab ? "page" : "false";
  });
  document.getElementById("filters").hidden = state.tab !== "samples";
  document.getElementById("blending").hidden = document.getElementById("scaling").hidden = state.tab === "classes";
  document.getElementById("panel").hidden = state.tab === "accuracy" || state.tab === "run";
}

function showStyle() {
  document.documentElement.style.setProperty("--alpha", state.alpha);
  document.documentElement.dataset.print = state.print;
  paintBars();
}

function redraw() {
  document.querySelectorAll(".picture").forEach((node) => node.redraw?.());
  if (state.tab === "classes") showClasses();
}

function update(remember = false) {
  for (const tab of TABS) document.getElementById(`tab-${tab}`).hidden = tab !== state.tab;
  if (state.tab === "samples") showCards();
  if (state.tab === "classes") showClasses();
  showPagers(state.tab === "classes" ? index.classes : selected);
  showControls();
  showStyle();
  writeHash(remember);
  showDetail();
}

function change(name, text) {
  const before = state[name];
  state[name] = PARSERS[name](text) ?? FALLBACKS[name];
  if (state[name] === before) return;
  if (STYLE.has(name)) {
    showControls();
    showStyle();
    if (name !== "alpha") redraw();
    return writeHash(false);
  }
  if (name === "by") state.class = "";
  state.page = 1;
  update();
}

function reset() {
  Object.assign(state, filtersOff);
  update();
  control("q").focus();
}

controls.forEach((input) => input.addEventListener("input", () => change(input.dataset.state, input.value)));
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("[data-alpha]").forEach((button) =>
  button.addEventListener("click", () => change("alpha", button.dataset.alpha)));
document.querySelectorAll("[data-tab]").forEach((button) => button.addEventListener("click", () => {
  Object.assign(state, { tab: button.dataset.tab, page: 1 });
  update(true);
}));
document.getElementById("direction").addEventListener("click", () => {
  Object.assign(state, { desc: !state.desc, page: 1 });
  update();
});
document.getElementById("reset").addEventListener("click", reset);
document.getElementById("empty-reset").addEventListener("click", reset);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
document.getElementById("help").addEventListener("click", () => keys.showModal());
document.getElementById("keys-close").addEventListener("click", () => keys.close());

const nudge = (by) => change("alpha", String(Math.round(20 * (state.alpha + by)) / 20));

function search() {
  if (state.tab !== "samples") change("tab", "samples");
  document.getElementById("panel").open = true;
  control("q").focus();
}

function clearSearch() {
  change("q", "");
  showControls();
}

const KEYS = { "?": () => keys.showModal(), "[": () => nudge(-0.05), "]": () => nudge(0.05) };
const DETAIL_KEYS = { ...KEYS, ArrowLeft: () => step(-1), ArrowRight: () => step(1) };
const GRID_KEYS = {
  ...KEYS, "/": search, ...Object.fromEntries(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]
    .map((key) => [key, () => moveFocus(key)])),
};
const PLAIN_KEYS = { ...KEYS, "/": search };

function keyTable(target) {
  if (target === control("q")) return { Escape: clearSearch };
  if (target.matches("input, select, textarea") || keys.open) return {};
  if (detail.open) return DETAIL_KEYS;
  return state.tab === "samples" ? GRID_KEYS : PLAIN_KEYS;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const action = Object.entries(keyTable(event.target)).find(([key]) => key === event.key)?.[1];
  if (!action) return;
  event.preventDefault();
  action();
});

const isWide = matchMedia("(min-width: 60rem)");
const showPanel = () => { document.getElementById("panel").open = isWide.matches; };
isWide.addEventListener("change", showPanel);

addEventListener("popstate", () => { readHash(); update(); redraw(); });

showPanel();
fillChoices();
readHash();
update();
