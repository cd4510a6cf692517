// One sample: photo, heatmap, overlay and what is known about it.
const detail = document.getElementById("detail");

const named = (name, probability) => name === null ? null : `${name}, ${percent(probability)}`;

// What the detail view says of a sample: name -> text, or null to leave it out.
const FACTS = {
  "Predicted": (s) => named(s.pred_name, s.prob),
  "Explained for": (s) => named(s.target_name, s.target_prob),
  "Label": (s) => s.label === null ? null
    : s.label + { true: " (prediction correct)", false: " (prediction wrong)", null: "" }[s.correct],
  "Size": (s) => s.width === null ? null : `${s.width} × ${s.height} pixels`,
};

// What stands behind "Details".
const RAW = {
  "Clusters": (s) => s.n_clusters === null ? null : String(s.n_clusters),
  "Noise": (s) => s.noise_fraction === null ? null : `${percent(s.noise_fraction)} of the channels`,
  "Evidence": (s) => s.heatmap_max === null ? null : `at most ${short(s.heatmap_max)} (raw scale)`,
  "File": (s) => s.uri,
  "Overlay file": (s) => s.overlay,
};

function message(sample) {
  if (sample.kind === "error") {
    return `Failed at ${sample.stage ?? "an unknown stage"} (${sample.error_type ?? "error"}): ${sample.message ?? "no message"}`;
  }
  return sample.kind === "blank" ? `Blank map: nothing in the image speaks for ${sample.target_name}.` : "";
}

function view(caption, sample, layers) {
  return element("figure", {}, picture(sample, layers, 480, `${caption} of ${sample.sample_id}`),
    element("figcaption", { textContent: caption }));
}

// The rows of the predicted and of the expected class, where an image that is predicted wrong has both; else null.
function pair(sample) {
  const all = bySample.get(sample.sample_id);
  const predicted = all.find((one) => one.target !== null && one.target === one.pred);
  const expected = all.find((one) => one.expected && one.target !== one.pred);
  const both = sample.correct === false && predicted && expected && (sample === predicted || sample === expected);
  return both ? { predicted, expected } : null;
}

// The pictures of a sample; those of a pair side by side.
function views(sample) {
  if (pair(sample)) {
    const { predicted, expected } = pair(sample);
    return [view("Original", sample, "photo"),
      view(`Predicted: ${named(predicted.target_name, predicted.target_prob)}`, predicted, "both"),
      view(`Expected: ${named(expected.target_name, expected.target_prob)}`, expected, "both")];
  }
  const explained = sample.heatmap_max !== null;
  return [view("Original", sample, "photo"),
    ...explained ? [view("Heatmap", sample, "heatmap"), view("Overlay", sample, "both")] : []];
}

function fillDetail(sample) {
  const at = selected.indexOf(sample);
  document.getElementById("detail-title").textContent = sample.sample_id;
  document.getElementById("detail-place").textContent = at < 0 ? "" : `${at + 1} of ${selected.length}`;
  document.getElementById("previous").disabled = at <= 0;
  document.getElementById("next").disabled = at < 0 || at === selected.length - 1;
  document.getElementById("classes-of-sample").replaceChildren(...classButtons(sample));
  const text = message(sample);
  Object.assign(document.getElementById("detail-message"),
    { textContent: text, hidden: !text, className: `message ${sample.kind}` });
  const explained = sample.heatmap_max !== null;
  document.getElementById("views").replaceChildren(...views(sample));
  document.getElementById("views").classList.toggle("pair", pair(sample) !== null);
  document.getElementById("detail-tools").hidden = !explained;
  document.getElementById("detail-facts").replaceChildren(...lines(FACTS, sample));
  document.getElementById("detail-raw").replaceChildren(...lines(RAW, sample));
}

function lines(facts, sample) {
  return Object.entries(facts).map(([name, text]) => [name, text(sample)])
    .filter(([, text]) => text !== null && text !== undefined)
    .map(([name, text]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text })));
}

// A button for each explained class of the image, where there are several.
function classButtons(sample) {
  const all = bySample.get(sample.sample_id);
  return all.length < 2 ? [] : all.map((other) => element("button", { type: "button", className: "quiet",
    ariaPressed: String(other === sample), textContent: named(other.target_name, other.target_prob),
    onclick: () => openDetail(other, false) }));
}

function openDetail(sample, remember) {
  state.view = sample.key;
  writeHash(remember);
  showDetail();
}

// Opens, refills or closes the dialog so that it agrees with the state.
function showDetail() {
  const sample = byId.get(state.view);
  if (!sample) return detail.open && detail.close();
  if (detail.sample !== sample || !detail.open) fillDetail(sample);
  detail.sample = sample;
  if (detail.open) return;
  detail.showModal();
  document.getElementById("detail-title").focus();
}

function step(by) {
  const next = selected[selected.indexOf(detail.sample) + by];
  if (next) openDetail(next, false);
}

detail.addEventListener("close", () => {
  const last = detail.sample;
  detail.sample = null;
  state.view = "";
  writeHash(false);
  const at = selected.indexOf(last);
  const page = Math.floor(at / PER_PAGE) + 1;
  if (at >= 0 && page !== state.page && state.tab === "samples") turn(page, at % PER_PAGE);
  cardButtons().find((button) => button.sample === last)?.focus();
});
// A click on the dimmed page around the dialog closes it.
detail.addEventListener("click", (event) => { if (event.target === detail) detail.close(); });
document.getElementById("close").addEventListener("click", () => detail.close());
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
