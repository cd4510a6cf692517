// The grids of samples and classes, a page at a time.
const PER_PAGE = 60;
// Up to so many samples the cards are large.
const FEW = 12;
const cardList = document.getElementById("cards");
let selected = [];

const pages = (items) => Math.max(1, Math.ceil(items.length / PER_PAGE));
const onPage = (items) => items.slice((state.page - 1) * PER_PAGE, state.page * PER_PAGE);

function badge(text, kind) {
  return element("span", { className: `badge ${kind}`, textContent: text });
}

function badges(sample) {
  const row = element("span", { className: "badges" });
  if (sample.kind !== "ok") row.append(badge(sample.kind, sample.kind));
  if (sample.correct !== null) row.append(sample.correct ? badge("correct", "good") : badge("wrong", "bad"));
  return row;
}

// Which of the explained classes of its image a row is for.
function rank(sample) {
  const all = bySample.get(sample.sample_id);
  const place = sample.target === sample.pred ? "predicted" : sample.expected ? "expected, not predicted" : null;
  if (place && index.by_label) return place;
  return all.length < 2 ? "the only explained class" : `explained class ${all.indexOf(sample) + 1} of ${all.length}`;
}

// A long name with its middle left out where it does not fit: its end tells files apart.
function fileName(name) {
  const end = name.length > 24 ? name.slice(-12) : "";
  return element("span", { className: "file", title: name },
    element("span", { textContent: name.slice(0, name.length - end.length) }), element("span", { textContent: end }));
}

function card(sample) {
  const failed = sample.kind === "error";
  const title = failed ? `Failed at ${sample.stage ?? "an unknown stage"}`
    : several ? sample.target_name : sample.pred_name ?? `class ${sample.pred}`;
  const lines = [element("span", { className: "title" },
    element("span", { className: "name", textContent: title }),
    element("span", { className: "figure", textContent: failed ? "" : percent(several ? sample.target_prob : sample.prob) }))];
  if (!failed && several) {
    lines.push(element("span", { className: "minor", textContent: rank(sample) }));
  } else if (!failed && sample.target !== sample.pred) {
    lines.push(element("span", { className: "minor",
      textContent: `explained for ${sample.target_name}, ${percent(sample.target_prob)}` }));
  }
  if (sample.label !== null) {
    lines.push(element("span", { className: "minor", textContent: `label: ${sample.label}` }));
  }
  lines.push(fileName(sample.sample_id));
  const button = element("button", { type: "button", className: `card ${sample.kind}`, tabIndex: -1 },
    picture(sample, "both", bySample.size <= FEW ? 320 : 128), ...lines, badges(sample));
  button.sample = sample;
  button.addEventListener("click", () => openDetail(sample, true));
  return element("li", {}, button);
}

const cardButtons = () => [...cardList.querySelectorAll(".card")];

function showCards() {
  selected = selection();
  cardList.classList.toggle("few", bySample.size <= FEW);
  state.page = Math.min(state.page, pages(selected));
  const focused = document.activeElement?.sample;
  cardList.replaceChildren(...onPage(selected).map(card));
  const buttons = cardButtons();
  const again = buttons.find((button) => button.sample === focused);
  if (buttons.length) (again ?? buttons[0]).tabIndex = 0;
  again?.focus({ preventScroll: true });
  document.getElementById("empty").hidden = selected.length > 0;
  const noun = several ? `rows of ${bySample.size.toLocaleString("en")} samples` : "samples";
  document.getElementById("count").textContent = selected.length === samples.length
    ? `${samples.length.toLocaleString("en")} ${noun}`
    : `${selected.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")} ${noun}`;
}

// The one card that the tab key reaches is the last one focused.
cardList.addEventListener("focusin", (event) => {
  cardButtons().forEach((button) => { button.tabIndex = button === event.target ? 0 : -1; });
});

const columns = (buttons) => {
  const top = buttons[0].offsetTop;
  const second = buttons.findIndex((button) => button.offsetTop !== top);
  return second < 0 ? buttons.length : second;
};

function moveFocus(key) {
  const buttons = cardButtons();
  if (!buttons.length) return;
  const from = buttons.indexOf(document.activeElement);
  if (from < 0) return buttons.find((button) => button.tabIndex === 0).focus();
  const across = columns(buttons);
  const to = from + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
  if (buttons[to]) return buttons[to].focus();
  if (to < 0 && state.page > 1) turn(state.page - 1, -1);
  if (to >= buttons.length && state.page < pages(selected)) turn(state.page + 1, 0);
}

function turn(page, focus) {
  state.page = page;
  update();
  if (focus === undefined) return document.getElementById("main").scrollIntoView();
  cardButtons().at(focus).focus();
}

function showPagers(items) {
  const count = pages(items);
  document.querySelectorAll("[data-pager]").forEach((pager) => {
    pager.hidden = count < 2;
    const step = (text, name, page) => element("button", { type: "button", className: "quiet", textContent: text,
      ariaLabel: name, disabled: page < 1 || page > count, onclick: () => turn(page) });
    pager.replaceChildren(step("←", "Previous page", state.page - 1),
      element("span", { textContent: `Page ${state.page} of ${count}` }), step("→", "Next page", state.page + 1));
  });
}

function classCard(item) {
  const [height, width] = index.size ?? index.grid;
  const canvas = element("canvas", { width: Math.round(128 * width / Math.max(width, height)),
    height: Math.round(128 * height / Math.max(width, height)) });
  const frame = element("span", { className: "picture mean" });
  frame.style.aspectRatio = `${width} / ${height}`;
  if (item.mean) {
    frame.append(canvas);
    paint(canvas, floats(item.mean), 1, state.cmap);
  } else {
    frame.append(element("span", { className: "placeholder" }, element("span", { textContent: "Only blank maps" })));
  }
  const blank = item.blank ? `, ${item.blank.toLocaleString("en")} blank` : "";
  const button = element("button", { type: "button", className: "card" }, frame,
    element("span", { className: "title" }, element("span", { className: "name", textContent: item.name })),
    element("span", { className: "minor", textContent: `${item.count.toLocaleString("en")} ${item.count === 1 ? "map" : "maps"}${blank}` }));
  button.addEventListener("click", () => {
    Object.assign(state, { ...filtersOff, tab: "samples", by: "target", class: String(item.target), page: 1 });
    update(true);
    document.getElementById("main").focus();
  });
  return element("li", {}, button);
}

function showClasses() {
  state.page = Math.min(state.page, pages(index.classes));
  document.getElementById("classes").replaceChildren(...onPage(index.classes).map(classCard));
}
