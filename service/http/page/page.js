// The page at /: it calls GET /models, POST /embed and POST /classify, as any other client may.

const base = new URL("../", import.meta.url);
const MOST = 500; // photos
const GROUP = 8; // photos in one request
const NEIGHBOURS = 5;
const FOUND = 12; // photos that words find
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

const $ = (id) => document.getElementById(id);
const state = { models: [], model: null, photos: [], chosen: null, other: null, fingerprint: "", epoch: 0, group: GROUP, working: false, words: null };

// ---- what is sent, and what comes back

class Problem extends Error {
  constructor(words, type = "", errors = []) {
    super(words);
    this.type = type;
    this.errors = errors;
  }
}

const pause = (seconds) => new Promise((done) => { setTimeout(done, 1000 * seconds); });

async function call(path, options = {}) {
  const key = $("key").value.trim();
  const headers = { ...options.headers, Accept: "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  for (let attempt = 0; ; attempt += 1) {
    let answer;
    try {
      // Without a `cache` of fetch: it would send Cache-Control, which makes the gateway compute again.
      answer = await fetch(new URL(path, base), { ...options, headers });
    } catch {
      throw new Problem("The gateway does not answer. Is it still running, and does the network work?");
    }
    if (answer.ok) return answer;
    if (answer.status === 429 && attempt < 8) {
      say("The gateway is busy; waiting for a place …");
      await pause(Math.min(30, Number(answer.headers.get("Retry-After")) || 1));
      continue;
    }
    throw await worded(answer);
  }
}

async function worded(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // Not from the gateway: a proxy answers in its own form.
  }
  const words = told.detail || told.title || `The answer was ${answer.status} ${answer.statusText} without a reason.`;
  if (answer.status === 401) {
    const more = $("key").value ? "The API key above is not known here." : "Type an API key into the field above.";
    return new Problem(`This gateway serves holders of an API key. ${more}`, "unauthenticated");
  }
  if (answer.status === 413 && !told.type) return new Problem("The photos are too large for what stands before the gateway.", "too-large");
  return new Problem(words, String(told.type || "").split(":").pop(), told.errors || []);
}

const floats = (base64) => new Float32Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);

// ---- the model, in its own words

const manifest = () => state.model.manifest;
const takesText = () => Boolean(state.model?.image);
const isMap = (output) => output.shape.length === 3;
const isClasses = (output) => output.kind === "classes";

/** Outputs by depth: what an output costs grows with it. */
function byDepth(outputs) {
  return outputs.every((one) => one.flops) ? [...outputs].sort((a, b) => a.flops - b.flops) : outputs;
}

const maps = () => byDepth(manifest().outputs.filter((one) => !isClasses(one) && isMap(one)));

function vectorOutputs() {
  const pooled = manifest().outputs.filter((one) => !isClasses(one) && !isMap(one));
  return pooled.length ? byDepth(pooled) : maps();
}

function query(outputs, more = {}) {
  const words = new URLSearchParams({ model: state.model.name });
  for (const one of outputs) words.append("output", one.name);
  for (const [name, value] of Object.entries(more)) words.append(name, value);
  return `embed?${words}`;
}

/** A model of images and text, by the image tower that its name stands for here. */
function family({ name, towers }, models) {
  const image = towers.find((tower) => tower.tower === "image");
  const found = image && models.find((one) => one.name === image.model);
  return found && { ...found, name, version: image.version, image: found.name, space: image.space };
}

/** The output in which both towers meet. */
const joint = () => manifest().outputs.find((one) => one.name === "projection")
  || manifest().outputs.find((one) => one.name === manifest().default_output);

async function loadModels() {
  const told = await (await call("models")).json();
  const models = told.models.filter((one) => one.manifest && one.manifest.input.height);
  const families = told.families.map((one) => family(one, models)).filter(Boolean);
  state.models = [...families, ...models.filter((one) => !families.some((other) => other.image === one.name))];
  if (!state.models.length) {
    const reasons = told.models.map((one) => `${one.name}: ${one.detail || "it takes no photos"}`).join("; ");
    throw new Problem(`No model can be asked now. ${reasons}`);
  }
  const wanted = state.model ? state.model.name : told.default;
  state.model = state.models.find((one) => one.name === wanted) || state.models[0];
  const select = $("model");
  select.replaceChildren(...state.models.map((one) => {
    const { backbone } = one.manifest;
    return option(one.name, `${one.name} – ${backbone.name}, version ${one.version}, ${one.manifest.outputs.length} outputs`);
  }));
  select.value = state.model.name;
  select.disabled = false;
}

// ---- photos and their vectors

function add(files) {
  const room = MOST - state.photos.length;
  for (const file of [...files].slice(0, room)) {
    state.photos.push({ file, name: file.name || "pasted", vectors: null, heat: new Map(), sources: {}, fault: "", thumb: "" });
  }
  if (files.length > room) report(new Problem(`This page holds ${MOST} photos; ${files.length - room} were left out.`));
  if (files.length === 1 && room) pick(state.photos.at(-1));
  state.chosen ||= state.photos[0] || null;
  if (files.length) work();
}

/** Choose a photo to show; the one before is what it is compared with, where that was itself or a photo just added. */
function pick(photo) {
  if (state.other === photo || !photo.vectors) state.other = state.chosen;
  state.chosen = photo;
}

const pending = () => state.photos.filter((photo) => !photo.vectors && !photo.fault);

/** Embed what has no vectors yet, group by group; the first photo alone, so that it is seen soon. */
async function work() {
  if (state.working) return;
  state.working = true;
  try {
    if (!state.model) await loadModels();
    state.renewals = 0;
    while (pending().length) {
      const waiting = pending();
      const done = state.photos.length - waiting.length;
      say(`Photo ${done + 1} of ${state.photos.length} …`);
      const first = waiting.includes(state.chosen) ? state.chosen : null;
      const group = first ? [first] : withinBytes(waiting.slice(0, state.group));
      await embed(group);
      for (const photo of group) await prepare(photo);
      await show();
    }
    clearProblem();
    const good = state.photos.filter((photo) => photo.vectors).length;
    say(state.photos.length ? `${count(good, "photo")} embedded by ${state.model.name}.` : "");
  } catch (error) {
    report(error);
  } finally {
    state.working = false;
  }
}

function withinBytes(photos) {
  let bytes = 0;
  const fitting = photos.filter((photo) => (bytes += photo.file.size) < 16e6);
  return fitting.length ? fitting : photos.slice(0, 1);
}

async function embed(group) {
  const epoch = state.epoch;
  const body = new FormData();
  for (const photo of group) body.append("image", photo.file, "photo");
  const begin = performance.now();
  let answer;
  try {
    answer = await call(query(vectorOutputs(), { encoding: "base64", on_error: "skip" }), { method: "POST", body });
  } catch (error) {
    if (group.length > 1 && ["too-many-images", "body-too-large", "too-large"].includes(error.type)) {
      state.group = 1;
      return;
    }
    if (!error.errors?.length && group.length === 1 && isAboutThePhoto(error)) error.errors = [{ index: 0, detail: error.message }];
    if (!error.errors?.length) throw error;
    for (const one of error.errors) group[one.index].fault = one.detail.replace(/^Image \d+: /, "");
    return;
  }
  const told = await answer.json();
  if (epoch !== state.epoch) return;
  if (told.fingerprint !== (state.fingerprint ||= told.fingerprint)) {
    await renew();
    return;
  }
  const timing = { stages: stagesOf(answer.headers.get("Server-Timing")), whole: performance.now() - begin, photos: group.length };
  for (const one of told.errors) group[one.index].fault = one.detail.replace(/^Image \d+: /, "");
  for (const one of told.embeddings) {
    const photo = group[one.index];
    photo.vectors ||= new Map();
    photo.vectors.set(one.output, floats(one.vector));
    photo.sources[one.output] = one.cache;
    photo.timing = timing;
  }
}

const isAboutThePhoto = (error) => /image|too-large/.test(error.type);

/** Another version has come into use: vectors of two fingerprints do not compare. */
async function renew() {
  state.renewals += 1;
  if (state.renewals > 3) throw new Problem("Versions of the model change from answer to answer, so photos cannot be compared. Try again in a minute.");
  forget();
  await loadModels();
}

function forget() {
  state.epoch += 1;
  state.fingerprint = "";
  state.words = null;
  for (const photo of state.photos) Object.assign(photo, { vectors: null, heat: new Map(), sources: {}, fault: "", labels: null, cropped: null });
}

function stagesOf(header) {
  return (header || "").split(",").map((part) => part.trim().match(/^(\w+);dur=([\d.]+)$/)).filter(Boolean)
    .map(([, name, milliseconds]) => [name, Number(milliseconds)]);
}

async function fetchHeat(photo, outputs) {
  const missing = outputs.filter((one) => !photo.heat.has(one.name));
  if (!missing.length) return;
  const epoch = state.epoch;
  const body = new FormData();
  body.append("image", photo.file, "photo");
  const told = await (await call(query(missing, { heat: "true", encoding: "base64" }), { method: "POST", body })).json();
  if (epoch !== state.epoch) return;
  for (const one of told.embeddings) {
    photo.heat.set(one.output, floats(one.vector));
    photo.sources[one.output] = one.cache;
  }
}

const labelsWanted = () => $("wanted").value.split(",").map((label) => label.trim()).filter(Boolean);

async function fetchLabels(photo) {
  const wanted = takesText() ? labelsWanted() : [];
  const asked = wanted.join();
  if (photo.labels?.asked === asked || !(wanted.length || manifest().outputs.some(isClasses))) return;
  const body = new FormData();
  body.append("image", photo.file, "photo");
  const words = new URLSearchParams({ model: state.model.name });
  for (const label of wanted) words.append("labels", label);
  const told = await (await call(`classify?${words}`, { method: "POST", body })).json();
  photo.labels = { ...told.predictions[0], asked };
}

/** Embed words by the text tower, whose vectors compare with those of the photos. */
async function seek(text) {
  const epoch = state.epoch;
  const body = JSON.stringify({ images: [{ text }] });
  const headers = { "Content-Type": "application/json" };
  const answer = await call(query([joint()], { encoding: "base64" }), { method: "POST", body, headers });
  const told = await answer.json();
  if (epoch !== state.epoch) return;
  if (told.towers[0].space !== state.model.space) {
    await renew();
    work();
    throw new Problem("The model has changed, so all photos are embedded again. Then search once more.");
  }
  const [{ output, vector }] = told.embeddings;
  state.words = { text, output, vector: floats(vector) };
}

// ---- what the model sees, by the manifest's input

const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** Where the resized picture lies behind the model's window; the arithmetic of microtome/preprocessing.py. */
function placement(width, height, spec) {
  if (spec.resize === "squash") return { size: [spec.width, spec.height], left: 0, top: 0 };
  let size;
  if (spec.resize === "shortest-side") {
    const side = spec.shortest_side || Math.min(spec.width, spec.height);
    size = width <= height ? [side, Math.floor((side * height) / width)] : [Math.floor((side * width) / height), side];
  } else {
    const ratio = Math.min(spec.width / width, spec.height / height);
    size = [Math.max(1, even(width * ratio)), Math.max(1, even(height * ratio))];
  }
  return { size, left: even((size[0] - spec.width) / 2), top: even((size[1] - spec.height) / 2) };
}

/** Draw a photo as the model gets it, once; photo.cropped is a canvas, or null where the browser cannot read the file. */
async function prepare(photo) {
  const spec = manifest().input;
  if (photo.cropped || photo.fault) return;
  const canvas = Object.assign(document.createElement("canvas"), { width: spec.width, height: spec.height });
  try {
    const picture = await createImageBitmap(photo.file, { imageOrientation: spec.exif_orientation ? "from-image" : "none" });
    photo.size = [picture.width, picture.height];
    const { size, left, top } = placement(picture.width, picture.height, spec);
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, spec.width, spec.height);
    context.imageSmoothingEnabled = spec.interpolation !== "nearest";
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, -left, -top, ...size);
    picture.close();
    photo.cropped = canvas;
    const small = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
    small.getContext("2d").drawImage(canvas, 0, 0, 128, 128);
    const blob = await new Promise((done) => { small.toBlob(done, "image/jpeg", 0.8); });
    URL.revokeObjectURL(photo.thumb);
    photo.thumb = URL.createObjectURL(blob);
  } catch {
    photo.cropped = null;
  }
}

function seenWords(photo) {
  const spec = manifest().input;
  if (!photo.cropped) return "This browser cannot draw the file. The gateway reads it, and the vectors below are right.";
  const resized = {
    "shortest-side": `its shorter side is resized to ${spec.shortest_side || Math.min(spec.width, spec.height)}`,
    squash: "it is resized to the window, whatever its proportions",
    letterbox: "it is resized to fit, and the rest is black",
  }[spec.resize];
  const cut = spec.crop === "center" ? ", and the centre is cut out" : "";
  const turned = spec.exif_orientation ? " Turned the way the camera was held." : "";
  const draft = spec.decode !== "exact" ? " A large JPEG is decoded at a reduced scale first." : "";
  return `${photo.size.join("×")} pixels become ${spec.width}×${spec.height}: ${resized} (${spec.interpolation})${cut}.${turned}${draft} `
    + "Drawn by this browser, so colours may differ by a shade from the gateway's.";
}

// ---- elements

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const option = (value, text) => element("option", { value, textContent: text });
const heading = (text, scope = "row", className = "") => element("th", { scope, textContent: text, className });
const number = (text) => element("td", { textContent: text, className: "n" });
const count = (amount, what) => `${amount} ${what}${amount === 1 ? "" : "s"}`;
const rows = (...made) => element("tbody", {}, ...made);

/** A table's first row; a name that begins with ">" stands over numbers, and an empty one over bars. */
function head(...names) {
  return element("thead", {}, element("tr", {}, ...names.map((name) => (
    name ? heading(name.replace(">", ""), "col", name.startsWith(">") ? "n" : "") : element("td")))));
}

function bar(share) {
  const inner = document.createElement("i");
  inner.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element("td", { className: "bar" }, element("span", { ariaHidden: "true" }, inner));
}

function say(words) {
  if ($("status").textContent !== words) $("status").textContent = words;
}

function report(error) {
  const words = error instanceof Problem ? error.message : `Something on this page failed: ${error.message}`;
  $("problem").firstElementChild.textContent = words;
  $("problem").hidden = false;
  say("");
  if (error.type === "unauthenticated") $("key").focus();
}

function clearProblem() {
  $("problem").hidden = true;
}

function colour(share) {
  const place = Math.max(0, Math.min(1, share || 0)) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(place));
  return VIRIDIS[low].map((from, index) => from + (VIRIDIS[low + 1][index] - from) * (place - low));
}

function range(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

/** A canvas with one pixel for each number. */
function pixels(values, width, height, canvas = document.createElement("canvas")) {
  const [low, high] = range(values);
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  values.forEach((value, index) => image.data.set([...colour((value - low) / (high - low)), 255], 4 * index));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** At most 1024 numbers, each the mean of neighbours: a canvas has no more pixels than that to show them. */
function bins(vector) {
  const size = Math.ceil(vector.length / 1024);
  if (size === 1) return vector;
  return Float32Array.from({ length: Math.ceil(vector.length / size) }, (_, index) => {
    const part = vector.subarray(index * size, (index + 1) * size);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));
const norm = (vector) => Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));

function cosine(a, b) {
  let product = 0;
  for (let index = 0; index < a.length; index += 1) product += a[index] * b[index];
  return product / (norm(a) * norm(b) || 1);
}

// ---- views

async function show() {
  showGallery();
  const good = state.photos.filter((photo) => photo.vectors);
  if (state.chosen?.fault || !state.photos.includes(state.chosen)) state.chosen = good.includes(state.other) ? state.other : good[0] || null;
  showFound(good);
  const photo = state.chosen;
  $("views").hidden = !photo?.vectors;
  if (!photo?.vectors) return;
  showPhoto(photo);
  showCompare(photo, good);
  showNeighbours(photo, good);
  showCode(photo);
  await fetchHeat(photo, maps());
  if (photo !== state.chosen || !photo.vectors) return;
  showOutputs(photo);
  showHeat(photo);
  await showClasses(photo);
}

async function shown() {
  try {
    await show();
    clearProblem();
  } catch (error) {
    report(error);
  }
}

function showGallery() {
  const gallery = $("gallery");
  const held = new Map([...gallery.children].map((item) => [item.photo, item]));
  const items = state.photos.filter((photo) => photo.vectors).map((photo) => {
    const item = held.get(photo) || galleryItem(photo);
    item.firstChild.setAttribute("aria-pressed", String(photo === state.chosen));
    if (photo.thumb && item.image.src !== photo.thumb) item.image.src = photo.thumb;
    return item;
  });
  // Only what changed, so that the focus stays where it is.
  for (const item of [...gallery.children]) if (!items.includes(item)) item.remove();
  items.forEach((item, index) => { if (gallery.children[index] !== item) gallery.insertBefore(item, gallery.children[index] || null); });
  const faults = state.photos.filter((photo) => photo.fault);
  $("faults").replaceChildren(...faults.map((photo) => element("li", { textContent: `${photo.name}: ${photo.fault}` })));
  $("faults").hidden = !faults.length;
  $("clear").hidden = !state.photos.length;
}

function galleryItem(photo) {
  const image = element("img", { alt: photo.name, title: photo.name });
  const button = element("button", { type: "button" }, image);
  button.addEventListener("click", () => { pick(photo); shown(); });
  return Object.assign(element("li", {}, button), { photo, image });
}

/** The photos by their cosines with the words, the nearest first. */
function showFound(good) {
  $("words").hidden = !takesText() || !good.length;
  const { words } = state;
  $("found").replaceChildren();
  $("words-note").textContent = "";
  if ($("words").hidden || !words) return;
  const near = good.map((photo) => [photo, cosine(photo.vectors.get(words.output), words.vector)])
    .sort((a, b) => b[1] - a[1]).slice(0, FOUND);
  // Cosines of words and photos are small, and the longest bar is the best.
  const best = Math.max(near[0][1], 0.01);
  $("words-note").textContent = `Nearest to “${words.text}”: ${near[0][0].name} (${near[0][1].toFixed(3)}).`;
  $("found").replaceChildren(head("Photo", ">Cosine", ""), rows(...near.map(([photo, value]) => {
    const name = heading("");
    name.append(thumbnail(photo, `Show ${photo.name}`, () => { pick(photo); shown(); }), ` ${photo.name}`);
    return element("tr", {}, name, number(value.toFixed(3)), bar(value / best));
  })));
}

function showPhoto(photo) {
  const crop = $("crop");
  const { width, height } = manifest().input;
  Object.assign(crop, { width, height });
  if (photo.cropped) crop.getContext("2d").drawImage(photo.cropped, 0, 0);
  crop.hidden = !photo.cropped;
  crop.setAttribute("aria-label", `${photo.name} as the model sees it`);
  $("seen").textContent = `${photo.name}. ${seenWords(photo)}`;
  showTimes(photo.timing);
  showOutputs(photo);
}

function showTimes({ stages, whole, photos }) {
  const within = stages.reduce((sum, [, time]) => sum + time, 0);
  const all = [...stages, ["network, browser", Math.max(0, whole - within)]];
  const longest = Math.max(...all.map(([, time]) => time));
  $("times").replaceChildren(head("Stage", ">ms", ""), rows(...all.map(([name, time]) => (
    element("tr", {}, heading(name), number(time.toFixed(1)), bar(time / longest))))));
  $("times-note").textContent = `${whole.toFixed(0)} ms from this browser${photos > 1 ? `, for ${photos} photos together, whose stages overlap` : ""}. `
    + "The gateway's own times are its Server-Timing header.";
}

function showOutputs(photo) {
  const all = byDepth(manifest().outputs.filter((one) => !isClasses(one)));
  $("outputs").replaceChildren(
    head("Output", "From", "The vector", ">Numbers", ">Norm", ">Least to most", ">Zeros"),
    rows(...all.map((output) => outputRow(photo, output))),
  );
}

function outputRow(photo, output) {
  const vector = photo.vectors.get(output.name) || photo.heat.get(output.name);
  const name = heading(output.name);
  name.append(element("small", { textContent: output.layer }));
  if (!vector) return element("tr", {}, name, element("td", { colSpan: 6, textContent: "…" }));
  const [low, high] = range(vector);
  const zeros = vector.reduce((sum, value) => sum + (value === 0), 0) / vector.length;
  const whole = photo.vectors.has(output.name);
  const binned = bins(vector);
  const strip = pixels(binned, binned.length, 1);
  strip.setAttribute("role", "img");
  strip.setAttribute("aria-label", `${count(vector.length, whole ? "number" : "position")} of ${output.name}, from ${short(low)} to ${short(high)}`);
  const source = photo.sources[output.name];
  return element("tr", {}, name,
    element("td", {}, element("span", { className: `from ${source}`, textContent: source })),
    element("td", {}, strip),
    number(output.shape.join("×")),
    number(short(norm(vector))),
    // Of a map the page has the lengths at each position, and not the numbers.
    number(whole ? `${short(low)} to ${short(high)}` : "map"),
    number(whole ? `${Math.round(100 * zeros)} %` : ""));
}

async function showClasses(photo) {
  $("classes").hidden = !takesText() && !manifest().outputs.some(isClasses);
  $("choose").hidden = !takesText();
  $("labels").replaceChildren();
  if ($("classes").hidden) return;
  await fetchLabels(photo);
  if (photo !== state.chosen || !photo.labels) return;
  const best = [...photo.labels.labels].sort((a, b) => b.score - a.score).slice(0, 5);
  $("labels").replaceChildren(head("Class", ">Score", ""), rows(...best.map((one) => (
    element("tr", {}, heading(one.label), number(one.score.toFixed(3)), bar(one.score))))));
  $("classes-note").textContent = photo.labels.rejected ? "The model rejects this photo: no class is likely enough." : "";
}

function showHeat(photo) {
  const outputs = maps();
  $("heat-shown").hidden = !outputs.length;
  $("heat-none").hidden = Boolean(outputs.length);
  if (!outputs.length) {
    const embeddings = vectorOutputs();
    const { layer } = embeddings[Math.floor(embeddings.length / 2)];
    $("heat-none").textContent = "No output of this model keeps its map. Add one to its recipe and export again: "
      + `- {name: my_map, layer: ${layer}, pooling: none}`;
    return;
  }
  const select = $("layer");
  const chosen = outputs.find((one) => one.name === select.value) || outputs[Math.floor(outputs.length / 2)];
  if ([...select.options].map((one) => one.value).join() !== outputs.map((one) => one.name).join()) {
    select.replaceChildren(...outputs.map((one) => option(one.name, `${one.name} (${one.shape[0]}×${one.shape[1]})`)));
  }
  select.value = chosen.name;
  drawHeat(photo, chosen);
}

function drawHeat(photo, output) {
  const values = photo.heat.get(output.name);
  if (!values) return;
  const [down, across] = output.shape;
  const [low, high] = range(values);
  const canvas = $("map");
  const { width, height } = manifest().input;
  Object.assign(canvas, { width: 2 * width, height: 2 * height });
  const context = canvas.getContext("2d");
  if (photo.cropped) context.drawImage(photo.cropped, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = photo.cropped ? Number($("blend").value) / 100 : 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(pixels(values, across, down), 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  const strongest = values.indexOf(high);
  const [row, column] = [Math.floor(strongest / across), strongest % across];
  const cell = [canvas.width / across, canvas.height / down];
  // A frame, for those who do not see the colours.
  for (const [style, dash] of [["#000", []], ["#fff", [6, 6]]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: 3 });
    context.setLineDash(dash);
    context.strokeRect(column * cell[0], row * cell[1], ...cell);
  }
  const where = `row ${row + 1} of ${down}, column ${column + 1} of ${across}`;
  canvas.setAttribute("aria-label", `Activity of ${output.name} over ${photo.name}: strongest in ${where}`);
  $("heat-words").textContent = `${output.layer} is most active in the dashed frame (${where}). Each place is the length of the `
    + `vector of ${output.shape[2]} channels there.`;
  $("scale-low").textContent = short(low);
  $("scale-high").textContent = short(high);
  if ($("cells").open) showGrid(values, down, across);
}

function showGrid(values, down, across) {
  const columns = [...Array(across).keys()].map((index) => heading(String(index + 1), "col"));
  $("grid").replaceChildren(
    element("thead", {}, element("tr", {}, element("td"), ...columns)),
    rows(...[...Array(down).keys()].map((row) => element("tr", {}, heading(String(row + 1)),
      ...[...values.slice(row * across, (row + 1) * across)].map((value) => element("td", { textContent: short(value) }))))),
  );
}

function showCompare(photo, good) {
  const others = good.filter((one) => one !== photo);
  $("compare-none").hidden = others.length > 0;
  $("compare-shown").hidden = !others.length;
  if (!others.length) return;
  if (!others.includes(state.other)) [state.other] = others;
  const select = $("other");
  select.replaceChildren(...others.map((one) => option(String(state.photos.indexOf(one)), one.name)));
  select.value = String(state.photos.indexOf(state.other));
  const found = vectorOutputs().map((output) => [output, cosine(photo.vectors.get(output.name), state.other.vectors.get(output.name))]);
  const most = found.reduce((a, b) => (b[1] > a[1] ? b : a));
  const least = found.reduce((a, b) => (b[1] < a[1] ? b : a));
  $("compare-words").textContent = `${photo.name} and ${state.other.name} are most alike at ${most[0].name} (${most[1].toFixed(3)})`
    + `${found.length > 1 ? ` and least alike at ${least[0].name} (${least[1].toFixed(3)})` : ""}.`;
  $("cosines").replaceChildren(head("Layer, early to late", ">Cosine", ""), rows(...found.map(([output, value]) => {
    const name = heading(output.name);
    name.append(element("small", { textContent: output.layer }));
    return element("tr", {}, name, number(value.toFixed(3)), bar(value));
  })));
}

function showNeighbours(photo, good) {
  const others = good.filter((one) => one !== photo);
  $("near").hidden = others.length < 2;
  if ($("near").hidden) return;
  const places = Math.min(NEIGHBOURS, others.length);
  $("neighbours").replaceChildren(
    head("Layer", ...[...Array(places).keys()].map((index) => `${index + 1}.`)),
    rows(...vectorOutputs().map((output) => {
      const own = photo.vectors.get(output.name);
      const near = others.map((one) => [one, cosine(own, one.vectors.get(output.name))]).sort((a, b) => b[1] - a[1]);
      return element("tr", {}, heading(output.name), ...near.slice(0, places).map(([one, value]) => neighbour(one, value)));
    })),
  );
}

function thumbnail(photo, alt, chosen) {
  const image = element("img", { alt, title: photo.name, ...(photo.thumb && { src: photo.thumb }) });
  const button = element("button", { type: "button", className: "small" }, image);
  button.addEventListener("click", chosen);
  return button;
}

function neighbour(photo, value) {
  const button = thumbnail(photo, `Compare with ${photo.name}`, () => {
    state.other = photo;
    shown();
    $("compare").scrollIntoView({ block: "nearest" });
    $("other").focus();
  });
  return element("td", {}, button, element("br"), value.toFixed(3));
}

// ---- the same, to copy

const listed = (texts) => JSON.stringify(texts).replaceAll('","', '", "');
const quoted = (text) => (/^[\w@%+:,./=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function showCode(photo) {
  const root = base.href.replace(/\/$/, "");
  const keyed = Boolean($("key").value);
  const names = vectorOutputs().map((one) => one.name);
  const key = keyed ? '-H "Authorization: Bearer $KEY" ' : "";
  const file = quoted(`@${photo.name}`);
  const curl = [`curl ${key}--data-binary ${file} \\\n    '${root}/${query(vectorOutputs())}'`];
  if (maps().length) {
    curl.push(`# where a layer is active, for numpy.load`,
      `curl ${key}-H 'Accept: application/x-npy' --data-binary ${file} -o heat.npy \\\n    '${root}/${query(maps().slice(0, 1), { heat: "true" })}'`);
  }
  $("curl").textContent = curl.join("\n");
  const files = [photo, state.other].filter((one) => one?.vectors).map((one) => one.name);
  $("python").textContent = `${keyed ? "import os\n\n" : ""}import microtome

with microtome.Client(${JSON.stringify(root)}${keyed ? ', api_key=os.environ["KEY"]' : ""}) as client:
    vectors = client.embed(
        ${listed(files)},
        model=${JSON.stringify(state.model.name)},
        output=${listed(names)},
        normalize=True,
    )
for output, rows in vectors.items():
    print(output, rows.shape, rows[0] @ rows[-1])  # the cosine of the first and the last photo`;
}

async function copy(button) {
  const code = $(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(code.textContent);
    say("Copied.");
  } catch {
    // Without https the clipboard is closed to pages.
    getSelection().selectAllChildren(code);
    say("Selected; copy it with your keyboard.");
  }
}

// ---- what people do

function choose(name) {
  state.model = state.models.find((one) => one.name === name);
  forget();
  shown();
  work();
}

async function begin() {
  try {
    await loadModels();
    clearProblem();
    await work();
  } catch (error) {
    report(error);
  }
}

$("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
$("model").addEventListener("change", (event) => choose(event.target.value));
$("key").addEventListener("change", begin);
$("again").addEventListener("click", begin);
$("clear").addEventListener("click", () => {
  for (const photo of state.photos) URL.revokeObjectURL(photo.thumb);
  Object.assign(state, { photos: [], chosen: null, other: null });
  shown();
  say("All photos are removed.");
  $("files").focus();
});

for (const [form, field, act] of [["ask", "sought", seek], ["choose", "wanted", () => {}]]) {
  $(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      if ($(field).value.trim()) await act($(field).value.trim());
      await show();
      clearProblem();
    } catch (error) {
      report(error);
    }
  });
}
$("other").addEventListener("change", (event) => {
  state.other = state.photos[Number(event.target.value)];
  shown();
});
$("layer").addEventListener("change", () => showHeat(state.chosen));
$("blend").addEventListener("input", () => showHeat(state.chosen));
$("cells").addEventListener("toggle", () => showHeat(state.chosen));
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));

// Text that is dragged, such as a key into its field, is none of this page's business.
const brings = (event) => event.dataTransfer?.types.includes("Files");

document.addEventListener("dragover", (event) => {
  if (!brings(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  if (!brings(event)) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    add(event.clipboardData.files);
  }
});

begin();
