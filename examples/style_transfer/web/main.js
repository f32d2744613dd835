// The page: what is asked for goes to the studio, what comes back is hung up and told.
import { Camera, CameraError } from "./camera.js";
import { canvasOf, PictureError, pictureIn, pixelsOf, read } from "./picture.js";
import { Studio, Superseded } from "./studio.js";
import { View } from "./view.js";

/** The longest side that is painted: what the processor, or software in a GPU's place, does in seconds; what keeps a
 *  GPU's memory free for others. A GPU that allows less says so. */
const LONGEST = { host: 1024, software: 1024, gpu: 2048 };
/** Sides of the camera's pictures: the first at which a frame takes less than SLOW_FRAME_MS. */
const FILM_SIDES = [384, 256, 192, 128];
const SLOW_FRAME_MS = 180;
/** After so long it is told that a picture is being read. */
const SLOW_READING_MS = 200;

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const preference = ["gpu", "host"].includes(query.get("backend")) ? query.get("backend") : "auto";
const chosenStyle = () => $("desk").elements.style.value;

const studio = new Studio({ preference, style: chosenStyle, fault: query.has("fault") });
const view = new View();
const camera = new Camera();

/** What is on the wall: its name, how large it was, and the pixels that are painted. */
let picture;
/** What hangs painted: the names of the picture and of the style. */
let painted;
/** How many pictures were asked for: while one is decoded, a later one may come. */
let wishes = 0;
/** Which of them is being read. */
let reading;
/** What is under way, in words; empty while the painter rests. */
let doing = "";
/** What happened since the last painting was asked for, and belongs beside its time. */
let news = [];
/** What did not work and can be tried again: `{ words, retry }`. */
let again;
/** The longest side that the device took, where it refused more. */
let refused = Infinity;
/** Why the processor paints, as far as it was told. */
let told;

const state = (name) => (document.documentElement.dataset.state = name);
const isLive = () => document.documentElement.dataset.state === "live";
const times = (width, height) => `${width} × ${height}`;
const ms = (n) => (n < 10 ? n.toFixed(1) : n < 10_000 ? Math.round(n) : `${(n / 1000).toFixed(1)} s`);
const duration = (n) => (n < 10_000 ? `${ms(n)} ms` : ms(n));

function say(...sentences) {
  const words = sentences.filter(Boolean).join(" ");
  // Set again, they would be read out again.
  if ($("status").textContent !== words) $("status").textContent = words;
}

/** Says what is under way, and what happened meanwhile. */
function tell() {
  say(doing, doing && scaled(), reading === wishes && "Reading the picture …", ...news);
}

/** Keeps words for the next that are said; a device may be lost twice. */
function note(words) {
  if (!news.includes(words)) news.push(words);
}

/** What happened to the back end. A film is told of at its start and end only: it hears at once. */
function announce(words) {
  note(words);
  if (isLive()) tell();
}

/** Something that is not to be had: what hangs stays, and what is under way goes on. */
function complain(words) {
  // What can be tried again still can, and is still told.
  if (again) return say(words, again.words);
  if (!doing) return fail(words);
  note(words);
  tell();
}

/** Nothing is under way any more, and why. `retry` is what to do if it shall be tried again. */
function fail(words, retry) {
  doing = "";
  state("failed");
  say(words, ...news.splice(0));
  again = retry && { words, retry };
  if (retry) $("retry").hidden = false;
  else retire("retry", "hidden", "status");
}

/** Something new is under way: what failed before is past. */
function begin(name) {
  state(name);
  again = undefined;
  retire("retry", "hidden", "status");
}

/** Hides or disables an element. The focus would be lost with it: it goes elsewhere. */
function retire(id, how, heir = "choose") {
  const focused = document.activeElement === $(id);
  $(id)[how] = true;
  if (focused) $(heir).focus();
}

function longest() {
  const { backend = "gpu", software } = studio.backend ?? {};
  return Math.min(refused, LONGEST[software && backend === "gpu" ? "software" : backend]);
}

/** That the picture was scaled, and why. */
function scaled() {
  const { full, pixels } = picture ?? {};
  if (!full || !studio.backend || isLive()) return "";
  const size = times(pixels.width, pixels.height);
  const who = studio.backend.backend === "gpu" ? "the GPU" : "the processor";
  return size === full ? "" : `Scaled from ${full} to ${size}, the most that ${who} paints here.`;
}

/** Hangs a picture and has it painted. */
function show({ pixels, width, height }, name, credit = "") {
  picture = { name, credit, full: times(width, height), pixels };
  hang();
  return paint();
}

function hang() {
  painted = undefined;
  retire("split", "disabled");
  retire("download", "disabled");
  view.hang(picture.pixels);
}

/** Pictures may come before the back end is known, and another may take over: what is too large for it is scaled. */
function fit() {
  const { width, height } = picture.pixels;
  if (Math.max(width, height) <= longest()) return;
  picture.pixels = pixelsOf(canvasOf(picture.pixels), longest());
  hang();
  caption(chosenStyle());
}

async function paint() {
  const { name } = picture;
  const style = chosenStyle();
  caption(style);
  begin(studio.backend ? "painting" : "starting");
  $("progress").removeAttribute("value");
  doing = studio.backend ? "Painting …" : "Getting ready …";
  tell();
  for (const id of ["prepared", "time"]) $(id).textContent = "…";
  $("bars").replaceChildren();
  const wanted = () => {
    fit();
    doing = "Painting …";
    tell();
    return request(picture.pixels, style);
  };
  const progress = (what, done, total) => {
    doing = what === "fetch" ? `Fetching the style “${style}” …` : "Painting …";
    tell();
    if (!total) return $("progress").removeAttribute("value");
    $("progress").max = total;
    $("progress").value = done;
  };
  try {
    const painting = await studio.paint(wanted, progress);
    view.unveil(new ImageData(painting.pixels, painting.width, painting.height));
    painted = { name, style };
    view.title = `${name}, painted in the style ${style}`;
    doing = `Painted in ${report(painting)}.`;
    tell();
    doing = "";
    news = [];
    $("download").disabled = false;
    state("painted");
  } catch (error) {
    explain(error);
  }
}

function request({ data, width, height }, style) {
  return { style, pixels: data, width, height };
}

function explain(error) {
  if (error instanceof Superseded) return;
  if (error instanceof PictureError) return fail(error.message);
  // The device knows what it holds: smaller, and told.
  if (error.code === "too-large" && error.longestSide < refused) {
    refused = error.longestSide;
    return paint();
  }
  const style = chosenStyle();
  if (painted) $("in-style").textContent = painted.style; // it still hangs
  const words = {
    "style-unreachable": `The style “${style}” could not be fetched (${error.message}).`,
    weights: `The style “${style}” cannot be used: ${error.message}.`,
    "out-of-memory": "The device has no memory left for this picture. Close other pages, or take a smaller one.",
    "no-gpu": `No WebGPU device here: ${error.message}. Without “backend=gpu” in the address the processor paints.`,
    crashed: `Painting broke off: ${error.message}.`,
    unreachable: `A part of this page could not be loaded (${error.message}). Is the network there?`,
    incomplete: `The program that paints did not arrive whole (${error.message}). Is the network there?`,
    unsupported: `This browser cannot run the program that paints (${error.message}). A newer one can.`,
  };
  fail(words[error.code] ?? `This did not work: ${error.message}.`, error.code === "no-gpu" ? undefined : paint);
  if (!error.code) throw error;
}

/** The placard's title: before the painting is there it says what will hang. */
function caption(style) {
  $("title").textContent = picture.name;
  $("in-style").textContent = style;
  $("credit").textContent = picture.credit || `after a photograph of ${picture.full}`;
  $("size").textContent = times(picture.pixels.width, picture.pixels.height);
}

/** Tells of a painting's times; returns how long it took, without what was made ready for it. */
function report({ stages, times: { fetch, prepare, readback }, total }) {
  const painted = stages.reduce((sum, stage) => sum + stage.ms, 0) + readback;
  $("prepared").textContent = duration(total - painted);
  $("time").textContent = duration(painted);
  const slowest = Math.max(...stages.map((stage) => stage.ms / stage.count));
  const bar = ({ stage, count, ms: taken }) => {
    const item = document.createElement("li");
    item.style.setProperty("--share", taken / count / slowest);
    item.style.setProperty("--count", count);
    item.title = `${stage}: ${ms(taken)} ms`;
    return item;
  };
  $("bars").replaceChildren(...stages.map(bar));
  const rows = stages.map(({ stage, count, ms }) => [count > 1 ? `${count} stages, to ${stage}` : stage, ms]);
  if (prepare !== undefined) rows.unshift(["weights, fetched", fetch], ["weights and kernels, prepared", prepare]);
  rows.push(["pixels, read back", readback]);
  const row = ([name, taken]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = ms(taken);
    return row;
  };
  $("stages").replaceChildren(...rows.map(row));
  return duration(painted);
}

/** Why the processor paints from the start. */
const FALLBACKS = {
  "no-gpu": "WebGPU is not available in this browser, so the processor paints: slower, and the same picture.",
  "software-only": "WebGPU is here in software only, so the processor paints: it is faster.",
  "too-weak": "This GPU is too small for this page, so the processor paints: slower, and the same picture.",
};
/** Why it does after a loss. */
const LOSSES = {
  "no-gpu": "the browser gives no other device",
  "software-only": "what the browser still has of WebGPU is software only",
  "too-weak": "the GPU that is left is too small for this page",
  "lost-often": "the device was lost again and again",
};

function adapterWords({ backend, adapter, software }) {
  if (!adapter) return "none";
  if (backend === "host") return `${adapter} (not used)`;
  return software ? `${adapter} (software)` : adapter;
}

function introduce(detail) {
  const { backend } = detail;
  $("backend").textContent = backend === "gpu" ? "the GPU, through WebGPU" : "the processor";
  $("adapter").textContent = adapterWords(detail);
  document.documentElement.dataset.backend = backend;
}

studio.addEventListener("opened", ({ detail }) => {
  introduce(detail);
  const { fallback } = detail;
  // A worker that replaces another finds the same.
  if (fallback && fallback !== told) announce(FALLBACKS[(told = fallback)]);
  if (document.documentElement.dataset.state === "starting") state("painting");
});
studio.addEventListener("reopened", ({ detail }) => {
  introduce(detail);
  const { backend, fallback } = detail;
  const why = LOSSES[fallback] ?? fallback;
  const how = backend === "gpu" ? "It was opened again and went on." : `The processor goes on, more slowly: ${why}.`;
  announce(`The graphics device was lost. ${how}`);
});
studio.addEventListener("crashed", ({ detail }) => {
  const how = studio.backend?.backend === "gpu" ? "the processor goes on, more slowly" : "it was started again";
  announce(`Painting broke off (${detail.message}); ${how}.`);
});

/** Reads a picture and shows it, unless something else is asked for meanwhile. */
async function take(blob, name, credit) {
  const wish = ++wishes;
  // A film goes on until the picture is there: it may be none.
  if (camera.isOpening) stopCamera();
  reading = wish;
  setTimeout(() => reading === wish && wish === wishes && tell(), SLOW_READING_MS);
  let found;
  try {
    const file = await blob;
    if (wish !== wishes) return; // to read this one would end the reading of the later one
    found = await read(file, longest());
  } catch (error) {
    if (wish !== wishes) return;
    reading = undefined;
    throw error;
  }
  if (wish !== wishes) return;
  reading = undefined;
  stopCamera();
  if (found.flaw) note(found.flaw);
  show(found, name, credit);
}

/** A file from anywhere. */
async function bring(file) {
  try {
    await take(file, file.name?.replace(/\.[^.]*$/, "") || "Picture");
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    if (picture) return complain(error.message);
    note(error.message);
    showExample();
  }
}

async function showExample() {
  begin("starting");
  say("Getting ready …");
  const fetched = fetch("astronaut.jpg").then((response) => (response.ok ? response.blob() : Promise.reject()));
  try {
    await take(fetched, "Astronaut", "after a photograph by NASA, public domain");
  } catch {
    fail("The example picture could not be fetched. Is the network there? You can also choose your own.", showExample);
  }
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) bring(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
$("styles").addEventListener("change", () => (isLive() ? studio.leave() : picture && paint()));
$("retry").addEventListener("click", () => again.retry());
$("desk").addEventListener("submit", (event) => event.preventDefault());

$("strength").addEventListener("input", ({ target }) => {
  $("strength-value").textContent = `${target.value} %`;
  view.strength = target.value / 100;
});

$("download").addEventListener("click", async () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await view.png());
  link.download = `${painted.name}-${painted.style}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (!file) return complain("There is no picture in the clipboard.");
  event.preventDefault();
  bring(file);
});
// Dragging over the page's parts leaves one and enters the next.
let depth = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
const over = (change) => $("drop").classList.toggle("over", (depth = Math.max(0, change)) > 0);
addEventListener("dragenter", (event) => hasFiles(event) && over(depth + 1));
addEventListener("dragleave", (event) => hasFiles(event) && over(depth - 1));
// A link, too, is caught: the browser would follow it, and what was painted would be gone.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over(0);
  const file = pictureIn(event.dataTransfer);
  if (file) bring(file);
  else complain("That was a link or a text, not a picture. Save the picture first, then drop its file here.");
});

$("camera").addEventListener("click", async () => {
  if (camera.on || camera.isOpening) return stopCamera();
  try {
    if (!(await camera.open())) return;
  } catch (error) {
    if (error instanceof CameraError) return complain(error.message);
    throw error;
  }
  wishes++;
  $("camera").textContent = "Stop camera";
  for (const id of ["snap", "fps"]) $(id).hidden = false;
  $("choose").hidden = true;
  await film();
});
$("snap").addEventListener("click", () => {
  const { videoWidth: width, videoHeight: height } = camera.video;
  const pixels = pixelsOf(camera.video, longest());
  wishes++;
  stopCamera();
  show({ pixels, width, height }, "Snapshot");
});
camera.onclose = stopCamera;

function stopCamera() {
  if (isLive()) studio.leave();
  camera.close();
  $("camera").textContent = "Camera";
  $("choose").hidden = false;
  $("fps").hidden = true;
  retire("snap", "hidden");
}

/** Paints frame after frame until the camera is closed. */
async function film() {
  view.rest();
  begin("live");
  doing = "Live. Painting small pictures, so that they come fast; the one you take is painted in full.";
  tell();
  let [step, frames, pace] = [0, 0, 0];
  while (camera.on) {
    const began = performance.now();
    const style = chosenStyle();
    try {
      const pixels = pixelsOf(camera.video, FILM_SIDES[step]);
      const painting = await studio.paint(() => request(pixels, style));
      if (!camera.on) break;
      picture = { name: "Camera", credit: "after what the camera sees", pixels };
      painted = { name: picture.name, style };
      view.film(pixels, new ImageData(painting.pixels, pixels.width, pixels.height));
      view.title = `What the camera sees, painted in the style ${style}`;
      caption(style);
      report(painting);
    } catch (error) {
      if (!camera.on || error instanceof Superseded) break;
      if (error.code === "left") continue; // another style is wanted
      stopCamera();
      return explain(error);
    }
    $("download").disabled = false;
    // A frame of the page between two of the film: it must stay responsive.
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const took = performance.now() - began;
    // The first frame of a size also makes its buffers.
    if (++frames > 1) {
      pace = frames === 2 ? took : 0.8 * pace + 0.2 * took;
      $("fps").textContent = `${(1000 / pace).toFixed(1)} frames per second`;
      if (pace > SLOW_FRAME_MS && step + 1 < FILM_SIDES.length) [step, frames] = [step + 1, 0];
    }
  }
  if (!isLive()) return;
  doing = `The camera is off; ${painted?.name === "Camera" ? "its last frame" : "the picture"} stays.`;
  tell();
  doing = "";
  news = [];
  state("painted");
}

// For tests: a device that is lost on demand.
if (query.has("fault")) window.loseDevice = () => studio.loseDevice();

showExample();
