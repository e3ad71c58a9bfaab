// Sortable tables, charts and the gallery. Everything is in this file: nothing is fetched.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Tables: a click on a header sorts, largest numbers first; rows without a value stay last.
const numberOf = (text) => (/^[+-]?[\d,]*\.?\d+/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN);
for (const table of all("table.sortable")) {
  all("thead th", table).forEach((header, column) => {
    if (!header.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const numeric = header.classList.contains("number");
      const last = header.getAttribute("aria-sort");
      const descending = last ? last === "ascending" : numeric;
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = all("tbody tr", table).map((row) => {
        const text = row.cells[column].textContent.trim();
        return { row, text, value: numberOf(text) };
      });
      const empty = (entry) => (numeric ? Number.isNaN(entry.value) : entry.text === "");
      rows.sort((a, b) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        const order = numeric ? a.value - b.value : a.text.localeCompare(b.text, undefined, { numeric: true });
        return descending ? -order : order;
      });
      table.tBodies[0].append(...rows.map((entry) => entry.row));
    });
  });
}
document.getElementById("show-folds")?.addEventListener("change", (event) => {
  for (const row of all(".single-fold")) row.hidden = !event.target.checked;
});

// Charts.
const { config, specs } = read("chart-data");
if (innerWidth < 640) { // a phone: matrices get the width that long names of classes would take
  config.axisYBand = { labelLimit: 95, labelFontSize: 10 };
  config.axisXBand = { labelAngle: -90, labelAlign: "left", labelBaseline: "middle", labelFontSize: 9.5, labelLimit: 130 };
}
const views = {};
const drawn = Object.entries(specs).map(async ([name, spec]) => {
  const options = { config, actions: false, renderer: "svg", ast: true };
  views[name] = (await vegaEmbed(`#chart-${name}`, spec, options)).view;
});
const setSignal = (name, signal, value) => views[name]?.signal(signal, value).runAsync();
for (const group of all("[data-signal]")) {
  group.addEventListener("change", (event) => setSignal(group.dataset.chart, group.dataset.signal, event.target.value));
}
const curveLegend = document.getElementById("curve-legend");
curveLegend.addEventListener("change", () => {
  const shown = all("input:checked", curveLegend).map((box) => box.value);
  for (const name of Object.keys(views)) if (name.startsWith("curve-")) setSignal(name, "shown", shown);
});

// Gallery: each picture holds two class maps, from which the layers are drawn.
const gallery = read("gallery-data");
const UNLABELLED = 255;
const rgb = (text) => [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
const palette = gallery.colours.map(rgb);
const hidden = new Set();
const maps = gallery.pictures.map(() => ({}));
const figures = all(".picture");
const control = (id) => document.getElementById(id);

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// A pixel's colour as one number, in the order in which all common processors keep it in memory: red comes first.
const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const CLEAR = 0;

// For each value of a class map its colour; hidden classes and what has no label are clear.
function classColours() {
  const colours = new Uint32Array(256).fill(CLEAR);
  palette.forEach((colour, index) => {
    if (!hidden.has(index)) colours[index] = packed(colour);
  });
  return colours;
}

// The colours of errors. Classes that are hidden or not scored count as no class.
function drawErrors(pixels, truth, predicted) {
  const kinds = ["right", "missed", "false", "other"].map((kind) => packed(rgb(colourOf(`--${kind}`))));
  const [right, missed, extra, other] = kinds;
  const counts = new Uint8Array(256);
  for (let index = gallery.unscored; index < palette.length; index++) counts[index] = hidden.has(index) ? 0 : 1;
  for (let pixel = 0; pixel < pixels.length; pixel++) {
    const there = truth[pixel];
    const submitted = predicted[pixel];
    if (there === UNLABELLED) continue;
    if (counts[there]) pixels[pixel] = there === submitted ? right : counts[submitted] ? other : missed;
    else if (counts[submitted]) pixels[pixel] = extra;
  }
}

function drawLayer(canvas, layer, picture, map) {
  const possible = layer === "prediction" || (layer !== "photo" && map.truth);
  canvas.hidden = !possible;
  if (!possible) return;
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.createImageData(picture.width, picture.height);
  const pixels = new Uint32Array(image.data.buffer);
  if (layer === "error") {
    drawErrors(pixels, map.truth, map.prediction);
  } else {
    const colours = classColours();
    (layer === "truth" ? map.truth : map.prediction).forEach((index, pixel) => (pixels[pixel] = colours[index]));
  }
  context.putImageData(image, 0, 0);
}

function draw(figure) {
  const index = Number(figure.dataset.index);
  const picture = gallery.pictures[index];
  const map = maps[index];
  if (!map.prediction) return;
  for (const side of ["left", "right"]) drawLayer(figure.querySelector(`.${side}`), control(side).value, picture, map);
  figure.dataset.drawn = drawing;
}

// Only what is on the screen is drawn; a change of the controls makes all pictures stale.
let drawing = 0;
const onScreen = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) onScreen.add(entry.target);
    else onScreen.delete(entry.target);
    if (entry.isIntersecting && entry.target.dataset.drawn !== String(drawing)) draw(entry.target);
  }
}, { rootMargin: "300px" });
function redraw() {
  drawing += 1;
  onScreen.forEach(draw);
}
const loaded = gallery.pictures.map(async (picture, index) => {
  figures[index].querySelector("img").src = picture.photo;
  maps[index].prediction = await inflate(picture.prediction);
  maps[index].truth = picture.truth && (await inflate(picture.truth));
  observer.observe(figures[index]);
});
addEventListener("beforeprint", () => figures.forEach(draw));

const setDivide = (percent) => {
  control("divide").value = percent;
  control("pictures").style.setProperty("--divide", `${percent}%`);
};
control("divide").addEventListener("input", (event) => setDivide(event.target.value));
control("opacity").addEventListener("input", (event) => {
  control("pictures").style.setProperty("--opacity", event.target.value / 100);
});
for (const side of ["left", "right"]) control(side).addEventListener("change", redraw);
for (const figure of figures) {
  const stage = figure.querySelector(".stage");
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    setDivide(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => event.buttons && follow(event));
}

function arrange() {
  const part = control("part").value;
  const order = control("order").value;
  const score = (figure) => (figure.dataset.score === "" ? NaN : Number(figure.dataset.score));
  const sign = order === "worst" ? 1 : -1;
  const sorted = [...figures].sort((a, b) => {
    if (order === "name") return a.dataset.index - b.dataset.index;
    if (Number.isNaN(score(a)) || Number.isNaN(score(b))) return Number.isNaN(score(a)) - Number.isNaN(score(b));
    return sign * (score(a) - score(b));
  });
  for (const figure of sorted) figure.hidden = part !== "" && figure.dataset.part !== part;
  control("pictures").append(...sorted);
}
for (const name of ["part", "order"]) control(name).addEventListener("change", arrange);

// Legend of classes.
const classButtons = all("#legend .class");
function showClasses(isShown) {
  for (const button of classButtons) {
    const index = Number(button.dataset.class);
    const shown = isShown(index);
    button.setAttribute("aria-pressed", shown);
    if (shown) hidden.delete(index);
    else hidden.add(index);
  }
  redraw();
}
for (const button of classButtons) {
  const own = Number(button.dataset.class);
  button.addEventListener("click", () => showClasses((index) => (index === own) !== !hidden.has(index)));
  button.addEventListener("dblclick", () => showClasses((index) => index === own));
}
control("all-classes").addEventListener("click", () => showClasses(() => true));
control("no-classes").addEventListener("click", () => showClasses(() => false));

// A worst pair leads to its photo, with the errors of its class alone.
for (const button of all("[data-picture]")) {
  button.addEventListener("click", () => {
    const own = Number(button.dataset.class);
    control("part").value = "";
    arrange();
    control("left").value = "photo";
    control("right").value = "error";
    showClasses((index) => index === own);
    const figure = figures[gallery.pictures.findIndex((picture) => picture.key === button.dataset.picture)];
    figures.forEach((other) => other.classList.toggle("found", other === figure));
    figure.scrollIntoView({ block: "start" });
  });
}

// For tests: set when all charts are drawn and all maps are read.
Promise.all([...drawn, ...loaded]).then(() => (document.body.dataset.ready = "yes"));
