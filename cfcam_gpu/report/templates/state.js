// What is shown, kept in the address's hash so that a copied address shows the same.
const SORTS = {
  order: ["Order of the run", (s) => s.order],
  name: ["File", (s) => s.sample_id],
  pred: ["Predicted class", (s) => s.pred_name],
  prob: ["Predicted probability", (s) => s.prob],
  target_prob: ["Explained probability", (s) => s.target_prob],
  clusters: ["Clusters", (s) => s.n_clusters],
  noise: ["Noise", (s) => s.noise_fraction],
  evidence: ["Evidence (raw maximum)", (s) => s.heatmap_max],
};

const ROLES = {
  pred: ["Predicted", (s) => s.pred === null ? null : String(s.pred), (s) => s.pred_name ?? `class ${s.pred}`],
  target: ["Explained for", (s) => s.target === null ? null : String(s.target), (s) => s.target_name ?? `class ${s.target}`],
  label: ["Labelled", (s) => s.label, (s) => s.label],
};

const TABS = ["samples", "classes", "accuracy", "run"].filter((tab) => document.getElementById(`tab-${tab}`));
const FALLBACKS = {
  tab: "samples", q: "", by: "pred", class: "", status: "", check: "", sort: "order", desc: false, page: 1,
  alpha: 0.5, cmap: "inferno", scale: "image", max: null, print: "grid", view: "",
};

const oneOf = (allowed) => (text) => allowed.includes(text) ? text : undefined;
const number = (low, high) => (text) => {
  const value = parseFloat(text);
  return Number.isFinite(value) ? Math.min(Math.max(value, low), high) : undefined;
};

// From the hash's text; what makes no sense there falls back.
const PARSERS = {
  tab: oneOf(TABS), q: String, by: oneOf(Object.keys(ROLES)), class: String,
  status: oneOf(["ok", "blank", "error"]), check: oneOf(["correct", "wrong"]), sort: oneOf(Object.keys(SORTS)),
  desc: (text) => text === "true", page: (text) => Math.round(number(1, 1e9)(text) ?? 1), alpha: number(0, 1),
  cmap: oneOf(Object.keys(index.cmaps)), scale: oneOf(["image", "shared"]),
  max: (text) => { const value = parseFloat(text); return value > 0 && Number.isFinite(value) ? value : undefined; },
  print: oneOf(["grid", "page"]),
  view: (text) => byId.has(text) ? text : undefined,
};

const state = { ...FALLBACKS };

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(FALLBACKS)) {
    state[name] = (given.has(name) ? PARSERS[name](given.get(name)) : undefined) ?? FALLBACKS[name];
  }
}

function writeHash(remember) {
  const differing = Object.entries(state).filter(([name, value]) => value !== FALLBACKS[name]);
  const hash = new URLSearchParams(differing).toString();
  const address = location.href.split("#")[0] + (hash && `#${hash}`);
  if (address === location.href) return;
  history[remember ? "pushState" : "replaceState"](null, "", address);
}

function matches(sample) {
  return (!state.status || sample.kind === state.status)
    && (!state.check || sample.correct === (state.check === "correct"))
    && (!state.class || ROLES[state.by][1](sample) === state.class)
    && state.q.toLowerCase().split(/\s+/).every((word) => sample.text.includes(word));
}

// Rows without the value stay last in both directions.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "string" ? collator.compare(a, b) : a - b);
}
const collator = new Intl.Collator("en", { numeric: true });

function selection() {
  const value = SORTS[state.sort][1];
  const direction = state.desc ? -1 : 1;
  return samples.filter(matches).sort((a, b) => compare(value(a), value(b), direction) || a.order - b.order);
}
