// The page: what is asked for goes to the studio, what comes back is hung up and told.
import { Camera, CameraError } from "./camera.js";
import { canvasOf, decode, PictureError, pictureIn, pixelsOf } from "./picture.js";
import { Studio, Superseded } from "./studio.js";
import { View } from "./view.js";

/** The longest side that is painted: what the processor, or software in a GPU's place, does in seconds; what keeps a
 *  GPU's memory free for others. A GPU that allows less says so. */
const LONGEST = { host: 1024, software: 1024, gpu: 2048 };
/** Sides of the camera's pictures: the first at which a frame takes less than SLOW_FRAME_MS. */
const FILM_SIDES = [384, 256, 192, 128];
const SLOW_FRAME_MS = 180;

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const preference = ["gpu", "host"].includes(query.get("backend")) ? query.get("backend") : "auto";

const studio = new Studio({ preference, fault: query.has("fault") });
const view = new View();
const camera = new Camera();

/** What is on the wall: its name, how large it was, and the pixels that are painted. */
let picture;
/** What hangs painted: the names of the picture and of the style. */
let painted;
/** How many pictures were asked for: while one is decoded, a later one may come. */
let wishes = 0;
/** What happened since the last painting was asked for, and belongs beside its time. */
let news = [];
/** The longest side that the device took, where it refused more. */
let refused = Infinity;
/** Why the processor paints, as far as it was told. */
let told;

const state = (name) => (document.documentElement.dataset.state = name);
const say = (...sentences) => ($("status").textContent = sentences.filter(Boolean).join(" "));
const chosenStyle = () => $("desk").elements.style.value;
const times = (width, height) => `${width} × ${height}`;
const ms = (n) => (n < 10 ? n.toFixed(1) : n < 10_000 ? Math.round(n) : `${(n / 1000).toFixed(1)} s`);
const duration = (n) => (n < 10_000 ? `${ms(n)} ms` : ms(n));

function longest() {
  const { backend = "host", software } = studio.backend ?? {};
  return Math.min(refused, LONGEST[software && backend === "gpu" ? "software" : backend]);
}

/** Hangs a picture and has it painted. */
async function show(source, name, credit = "") {
  const pixels = pixelsOf(source, longest());
  picture = { name, credit, full: times(source.width, source.height), pixels };
  source.close(); // it may be a hundred megabytes
  painted = undefined;
  view.hang(pixels);
  $("download").disabled = true;
  await paint();
}

async function paint() {
  const { pixels, full, name } = picture;
  const { width, height } = pixels;
  const style = chosenStyle();
  const size = times(width, height);
  const scaled = full && size !== full && `Scaled from ${full} to ${size}, which this device paints.`;
  caption(style);
  state(studio.backend ? "painting" : "starting");
  $("retry").hidden = true;
  $("progress").removeAttribute("value");
  say("Painting …", scaled);
  for (const id of ["prepared", "time"]) $(id).textContent = "…";
  $("bars").replaceChildren();
  try {
    const painting = await studio.paint(request(pixels, style), (done, total) => {
      $("progress").max = total;
      $("progress").value = done;
    });
    view.unveil(new ImageData(painting.pixels, width, height));
    painted = { name, style };
    view.title = `${name}, painted in the style ${style}`;
    report(painting);
    say(`Painted in ${duration(painting.total)}.`, scaled, ...news.splice(0));
    $("download").disabled = false;
    state("painted");
  } catch (error) {
    await explain(error);
  }
}

function request({ data, width, height }, style) {
  return { style, pixels: data, width, height };
}

async function explain(error) {
  if (error instanceof Superseded) return;
  // The device knows what it holds: smaller, and told.
  if (error.code === "too-large" && error.longestSide < refused) {
    refused = error.longestSide;
    picture.pixels = pixelsOf(canvasOf(picture.pixels), refused);
    view.hang(picture.pixels);
    return paint();
  }
  state("failed");
  const style = chosenStyle();
  if (painted) $("in-style").textContent = painted.style; // it still hangs
  const words = {
    "style-unreachable": `The style “${style}” could not be fetched (${error.message}).`,
    weights: `The style “${style}” did not arrive whole: ${error.message}.`,
    "out-of-memory": "The device has no memory left for this picture. Close other pages, or take a smaller one.",
    "no-gpu": `No WebGPU device here: ${error.message}. Without “backend=gpu” in the address the processor paints.`,
    crashed: `Painting broke off: ${error.message}.`,
    unreachable: "A part of this page could not be loaded. Is the network there?",
  };
  const own = error instanceof PictureError || error instanceof CameraError;
  say(own ? error.message : (words[error.code] ?? `This did not work: ${error.message}.`));
  $("retry").hidden = own || error.code === "no-gpu";
  if (!own && !error.code) throw error;
}

/** The placard's title: before the painting is there it says what will hang. */
function caption(style) {
  $("title").textContent = picture.name;
  $("in-style").textContent = style;
  $("credit").textContent = picture.credit || `after a photograph of ${picture.full}`;
  $("size").textContent = times(picture.pixels.width, picture.pixels.height);
}

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
}

const FALLBACKS = {
  "no-gpu": "WebGPU is not available in this browser, so the processor paints: slower, and the same picture.",
  "software-only": "WebGPU is here in software only, so the processor paints: it is faster.",
  "too-weak": "This GPU is too small for the kernels, so the processor paints: slower, and the same picture.",
};

function adapterWords({ backend, adapter, software }) {
  if (!adapter) return "none";
  if (backend === "host") return `${adapter} (not used)`;
  return software ? `${adapter} (software)` : adapter;
}

function introduce(detail) {
  const { backend, fallback } = detail;
  $("backend").textContent = backend === "gpu" ? "the GPU, through WebGPU" : "the processor";
  $("adapter").textContent = adapterWords(detail);
  document.documentElement.dataset.backend = backend;
  // A worker that replaces another finds the same.
  if (fallback && fallback !== told) news.push(FALLBACKS[(told = fallback)]);
}

studio.addEventListener("opened", ({ detail }) => {
  introduce(detail);
  if (document.documentElement.dataset.state === "starting") state("painting");
});
studio.addEventListener("reopened", ({ detail }) => {
  introduce(detail);
  const how = detail.backend === "gpu" ? "It was opened again and went on." : "The processor goes on.";
  news.push(`The graphics device was lost. ${how}`);
  say(...news);
});
studio.addEventListener("crashed", () => news.push("Painting broke off once; the processor took over."));

/** A file from anywhere: what cannot be read leaves the picture on the wall as it is. */
async function take(file) {
  if (!file) return;
  const wish = ++wishes;
  stopCamera();
  try {
    const source = await decode(file);
    if (wish !== wishes) return source.close();
    await show(source, file.name?.replace(/\.[^.]*$/, "") || "Picture");
  } catch (error) {
    if (wish === wishes) await explain(error);
  }
}

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", ({ target }) => {
  take(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
$("styles").addEventListener("change", () => camera.on || (picture && paint()));
$("retry").addEventListener("click", () => picture && paint());
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
  if (file) {
    event.preventDefault();
    take(file);
  } else {
    say("There is no picture in the clipboard.");
  }
});
// Dragging over the page's parts leaves one and enters the next.
let depth = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
const over = (change) => $("drop").classList.toggle("over", (depth = Math.max(0, change)) > 0);
addEventListener("dragenter", (event) => hasFiles(event) && over(depth + 1));
addEventListener("dragleave", (event) => hasFiles(event) && over(depth - 1));
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  over(0);
  take(pictureIn(event.dataTransfer));
});

$("camera").addEventListener("click", async () => {
  if (camera.on || camera.isOpening) return stopCamera();
  try {
    if (!(await camera.open())) return;
  } catch (error) {
    return explain(error);
  }
  wishes++;
  $("camera").textContent = "Stop";
  $("camera").setAttribute("aria-pressed", "true");
  for (const id of ["snap", "fps"]) $(id).hidden = false;
  $("choose").hidden = true;
  await film();
});
$("snap").addEventListener("click", async () => {
  try {
    const shot = await createImageBitmap(camera.video);
    stopCamera();
    $("choose").focus();
    await show(shot, "Snapshot");
  } catch (error) {
    await explain(error);
  }
});
camera.onclose = stopCamera;

function stopCamera() {
  camera.close();
  $("camera").textContent = "Camera";
  $("camera").setAttribute("aria-pressed", "false");
  for (const id of ["snap", "fps"]) $(id).hidden = true;
  $("choose").hidden = false;
}

/** Paints frame after frame until the camera is closed. */
async function film() {
  view.rest();
  state("live");
  say("Live. Painting small pictures, so that they come fast; the one you take is painted in full.");
  let [step, frames, pace] = [0, 0, 0];
  while (camera.on) {
    const began = performance.now();
    const style = chosenStyle();
    try {
      const pixels = pixelsOf(camera.video, FILM_SIDES[step]);
      const painting = await studio.paint(request(pixels, style));
      if (!camera.on) break;
      picture = { name: "Camera", credit: "after what the camera sees", pixels };
      painted = { name: picture.name, style };
      view.film(pixels, new ImageData(painting.pixels, pixels.width, pixels.height));
      view.title = `What the camera sees, painted in the style ${style}`;
      caption(style);
      report(painting);
    } catch (error) {
      if (!camera.on || error instanceof Superseded) break;
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
  if (document.documentElement.dataset.state !== "live") return;
  say("The camera is off;", `${painted?.name === "Camera" ? "its last frame" : "the picture"} stays.`);
  state("painted");
}

// For tests: a device that is lost on demand.
if (query.has("fault")) window.loseDevice = () => studio.loseDevice();

state("starting");
try {
  const photograph = await fetch("astronaut.jpg");
  if (!photograph.ok) throw new PictureError("The example could not be fetched. Choose a picture of your own.");
  const source = await decode(await photograph.blob());
  if (!wishes) await show(source, "Astronaut", "after a photograph by NASA, public domain");
} catch (error) {
  await explain(error);
}
