// The data of the page: a row per sample from the start, grids and pictures in blocks as they are needed.
const index = JSON.parse(document.getElementById("index").textContent);
const samples = index.rows.map((values, order) => {
  const sample = Object.fromEntries(index.fields.map((name, i) => [name, values[i]]));
  sample.order = order;
  sample.kind = sample.status !== "ok" ? "error" : sample.blank ? "blank" : "ok";
  sample.text = ["sample_id", "uri", "label", "target_name", "pred_name", "stage", "error_type", "message"]
    .map((name) => sample[name] ?? "").join("\n").toLowerCase();
  return sample;
});
// A sample has a row for each explained class; the first goes by the sample's id alone.
const bySample = new Map();
for (const sample of samples) {
  if (!bySample.has(sample.sample_id)) bySample.set(sample.sample_id, []);
  bySample.get(sample.sample_id).push(sample);
}
const byId = new Map(samples.map((sample) => {
  sample.key = bySample.get(sample.sample_id)[0] === sample ? sample.sample_id : `${sample.sample_id}#${sample.target}`;
  return [sample.key, sample];
}));
const several = bySample.size < samples.length;

function floats(base64) {
  if (base64 === null) return null;
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const blocks = new Map();
const arrived = new Map();

// Data files beside the page call this: a page opened from disk cannot read them in any other way.
window.cfcamBlock = (number, block) => arrived.set(number, block);

function loadBlock(number) {
  if (!blocks.has(number)) blocks.set(number, readBlock(number));
  return blocks.get(number);
}

async function readBlock(number) {
  const inline = document.getElementById(`block-${number}`);
  if (inline) return JSON.parse(inline.textContent);
  const script = document.createElement("script");
  const source = index.sources[number];
  await new Promise((resolve, reject) => {
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${decodeURI(source)} is missing; keep that folder beside this page`));
    script.src = source;
    document.head.append(script);
  });
  script.remove();
  return arrived.get(number);
}

// { grid: Float32Array or null, picture: address or null, note: why there is no picture }
async function load(sample) {
  const at = sample.order % index.block;
  try {
    const block = await loadBlock(Math.floor(sample.order / index.block));
    const picture = block.pictures[at];
    return { grid: floats(block.grids[at]), picture: block.pictures[picture] ?? picture, note: block.notes[at] };
  } catch (error) {
    return { grid: null, picture: null, note: error.message };
  }
}
