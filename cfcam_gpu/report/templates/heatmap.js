// Heatmaps drawn from the layer's grid: bilinear as in the library, then 256 steps of a colour map.
const colourTables = Object.fromEntries(Object.entries(index.cmaps).map(([name, base64]) =>
  [name, Uint8Array.from(atob(base64), (char) => char.charCodeAt(0))]));

// Cells around each output pixel's centre and the share of the second (align_corners=False).
function taps(cells, pixels) {
  return Array.from({ length: pixels }, (_, i) => {
    const position = Math.min(Math.max((i + 0.5) * cells / pixels - 0.5, 0), cells - 1);
    const lower = Math.floor(position);
    return [lower, Math.min(lower + 1, cells - 1), position - lower];
  });
}

// Draws the grid, divided by `peak`, over the whole canvas.
function paint(canvas, grid, peak, cmap) {
  const [rows, columns] = index.grid;
  const { width, height } = canvas;
  const table = colourTables[cmap];
  const pixels = new ImageData(width, height);
  const across = taps(columns, width);
  const factor = peak > 0 ? 255 / peak : 0;
  taps(rows, height).forEach(([top, bottom, down], y) => {
    across.forEach(([left, right, along], x) => {
      const upper = grid[top * columns + left] * (1 - along) + grid[top * columns + right] * along;
      const lower = grid[bottom * columns + left] * (1 - along) + grid[bottom * columns + right] * along;
      const step = Math.min(Math.round((upper + down * (lower - upper)) * factor), 255);
      const at = 4 * (y * width + x);
      pixels.data.set([table[3 * step], table[3 * step + 1], table[3 * step + 2], 255], at);
    });
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const sharedPeak = () => state.max ?? index.peak;

function paintSample(canvas, sample, grid) {
  paint(canvas, grid, state.scale === "shared" ? sharedPeak() : sample.heatmap_max, state.cmap);
}

function paintBar(canvas) {
  const table = colourTables[state.cmap];
  const pixels = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) pixels.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const BAR_TEXT = {
  image: "Normalised per image: 1 is each map's own maximum.",
  mean: "Mean of maps that each end at 1.",
  shared: "The same scale for all images: raw evidence; more than the end shows as the end.",
};

function paintBars() {
  document.querySelectorAll("[data-bar]").forEach(paintBar);
  const scale = state.tab === "classes" ? "mean" : state.scale;
  const end = scale === "shared" ? short(sharedPeak()) : "1";
  document.querySelectorAll("[data-bar-end]").forEach((span) => { span.textContent = end; });
  document.querySelectorAll("[data-bar-text]").forEach((p) => { p.textContent = BAR_TEXT[scale]; });
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const short = (value) => value === null ? "–" : String(Number(value.toPrecision(3)));

// 0.00001 and 0.99999 are neither 0% nor 100%.
function percent(value) {
  if (value === null) return "–";
  if (value > 0 && value < 0.001) return "<\u00a00.1%";
  if (value < 1 && value > 0.999) return ">\u00a099.9%";
  return `${(100 * value).toFixed(value < 0.1 || value > 0.99 ? 1 : 0)}%`.replace(".0%", "%");
}

// A photo with the heatmap over the part that the model saw; `layers`: "photo", "heatmap" or "both".
// Returns the node; it fills itself when the data has arrived, and `node.redraw` paints it anew.
function picture(sample, layers, longSide, alt = "") {
  const frame = element("span", { className: "frame" });
  const node = element("span", { className: `picture ${layers}` }, frame);
  const [width, height] = [sample.width ?? 4, sample.height ?? 3];
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.classList.toggle("tall", width / height < 4 / 3);
  node.style.setProperty("--shape", width / height);
  node.redraw = () => {};
  node.ready = load(sample).then(({ grid, picture: source, note }) => {
    if (layers !== "heatmap") frame.append(source ? photo(source, alt) : placeholder(sample, note));
    if (layers !== "photo" && grid) {
      const canvas = heatmapCanvas(sample, longSide, layers === "heatmap" ? alt : "");
      frame.append(canvas);
      node.redraw = () => paintSample(canvas, sample, grid);
      node.redraw();
    }
  });
  return node;
}

const photo = (source, alt) => element("img", { src: source, alt, decoding: "async", draggable: false });

function placeholder(sample, note) {
  const text = sample.kind === "error" ? `${sample.stage ?? "error"}: ${sample.message ?? sample.error_type ?? ""}`
    : `Original not shown: ${note}`;
  return element("span", { className: "placeholder" }, element("span", { textContent: text }));
}

function heatmapCanvas(sample, longSide, alt) {
  const [left, top, right, bottom] = sample.box ?? [0, 0, sample.width ?? 1, sample.height ?? 1];
  const [width, height] = [sample.width ?? right, sample.height ?? bottom];
  const scale = longSide / Math.max(right - left, bottom - top);
  const canvas = element("canvas", { width: Math.max(1, Math.round((right - left) * scale)),
    height: Math.max(1, Math.round((bottom - top) * scale)) });
  Object.assign(canvas.style, {
    left: `${100 * left / width}%`, width: `${100 * (right - left) / width}%`,
    top: `${100 * top / height}%`, height: `${100 * (bottom - top) / height}%`,
  });
  canvas.classList.toggle("part", left > 0.5 || top > 0.5 || right < width - 0.5 || bottom < height - 0.5);
  if (alt) canvas.setAttribute("role", "img"), canvas.setAttribute("aria-label", alt);
  return canvas;
}
