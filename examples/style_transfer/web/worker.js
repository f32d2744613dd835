// All work on pictures, apart from the page's thread: opens a back end, fetches styles, paints, and opens the back end
// again when its device is lost.
import init, { Painter } from "./pkg/style_transfer.js";

/** Losses in a row after which the processor takes over. */
const MOST_LOSSES = 2;

/** A tiny module with SIMD, the newest instructions that ours has: `() => i8x16.popcnt(i8x16.splat(0))`. */
const SIMD = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3],
  ...[2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
);

const weights = new Map();
const devices = [];
let painter, preference, style;
let losses = 0;
/** The style's weights that are on their way. */
let download;
/** Ends the wait for them. */
let leave = () => {};

// Paintings come one after the other; a device can be lost meanwhile.
let queue = Promise.resolve();
onmessage = ({ data }) => {
  if (data.type === "lose-device") return devices.forEach((device) => device.destroy());
  // The painting under way is not wanted any more: a network may take for ever, a GPU is done soon.
  if (data.type === "leave") return leave();
  queue = queue.then(() => (data.type === "open" ? open(data) : paint(data)));
};

async function open(request) {
  preference = request.preference;
  download = startDownload(request.style); // beside the module
  if (request.fault && self.GPUAdapter) keepDevices();
  try {
    const module = request.module ?? (await compile());
    await init({ module_or_path: module });
    painter = await Painter.open(preference);
    postMessage({ type: "opened", module, ...(await description()) });
  } catch (error) {
    // Nothing can be painted here; what is asked for goes to the next worker.
    queue = new Promise(() => {});
    postMessage({ type: "unopened", code: codeOf(error), message: error.message });
  }
}

async function compile() {
  const url = new URL("./pkg/style_transfer_bg.wasm", import.meta.url);
  const response = await fetched(url, "unreachable");
  try {
    // Servers that do not know wasm's media type cannot stream it.
    const streams = response.headers.get("content-type")?.startsWith("application/wasm");
    return await (streams ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer()));
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw coded("unreachable", error.message);
    // Old browsers lack some of its instructions. Where they have them, it did not arrive whole.
    throw coded(WebAssembly.validate(SIMD) ? "incomplete" : "unsupported", error.message);
  }
}

/** For tests: the devices that are opened, so that one can be destroyed in the middle of its work. */
function keepDevices() {
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (...descriptor) {
    const device = await request.apply(this, descriptor);
    devices.push(device);
    return device;
  };
}

/** What the page says of the back end. The names are the browser's, which tells few. */
async function description() {
  const { backend, fallback } = painter;
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  const { vendor, architecture, description, isFallbackAdapter } = adapter?.info ?? {};
  const name = description || [vendor, architecture].filter(Boolean).join(" ") || (adapter ? "unnamed" : null);
  return { backend, fallback, adapter: name, software: isFallbackAdapter ?? false };
}

async function paint(request) {
  const { id } = request;
  try {
    const painted = await paintOnce(request);
    losses = 0;
    postMessage({ type: "painted", id, ...painted }, [painted.pixels.buffer]);
  } catch (error) {
    const code = codeOf(error);
    if (code === "device-lost") {
      await reopen();
      return postMessage({ type: "again", id });
    }
    const { message, longestSide } = error;
    postMessage({ type: "failed", id, code, message, longestSide });
  }
}

/** After a loss: the same back end again, or the processor where that does not open or does not last. */
async function reopen() {
  painter.free();
  devices.length = 0;
  style = undefined;
  let fallback = "lost-often";
  try {
    painter = await Painter.open(++losses > MOST_LOSSES ? "host" : preference);
    if (losses <= MOST_LOSSES) fallback = painter.fallback;
  } catch (error) {
    painter = await Painter.open("host");
    fallback = codeOf(error);
  }
  postMessage({ type: "reopened", ...(await description()), fallback });
}

async function paintOnce({ id, style: name, pixels, width, height }) {
  if (download && download.name !== name) {
    download.abort();
    download = undefined;
  }
  const times = {};
  let began = performance.now();
  const lap = () => {
    const now = performance.now();
    const ms = now - began;
    began = now;
    return ms;
  };
  if (style !== name) {
    const bytes = weights.get(name) ?? (await load(name, id));
    times.fetch = lap();
    await painter.setStyle(bytes);
    weights.set(name, bytes); // they are whole
    style = name;
    times.prepare = lap();
  }
  const stages = [];
  let last = 0;
  const progress = (stage, done, total) => {
    stages.push({ stage, count: done - last, ms: lap() });
    last = done;
    postMessage({ type: "progress", id, what: "paint", done, total });
  };
  const painted = await painter.stylize(pixels, width, height, progress);
  times.readback = lap();
  return { pixels: painted, width, height, stages, times };
}

/** A style's weights, and how far they are: over a slow network that takes longer than to paint. */
async function load(name, id) {
  const told = (what, done, total) => postMessage({ type: "progress", id, what, done, total });
  download ??= startDownload(name);
  download.heard = (done, total) => told("fetch", done, total);
  told("fetch");
  const left = new Promise((_, reject) => {
    // The download goes on: the next painting may be in the same style.
    leave = () => reject(coded("left", "another painting is wanted"));
  });
  try {
    const bytes = await Promise.race([download.bytes, left]);
    download = undefined;
    told("paint");
    return bytes;
  } catch (error) {
    if (error.code !== "left") download = undefined;
    throw error;
  } finally {
    leave = () => {};
  }
}

function startDownload(name) {
  const controller = new AbortController();
  const started = { name, abort: () => controller.abort(), heard() {} };
  started.bytes = fetchWeights(name, controller.signal, (...far) => started.heard(...far));
  started.bytes.catch(() => {}); // nobody may be waiting
  return started;
}

async function fetchWeights(name, signal, heard) {
  const url = new URL(`./styles/${name}.safetensors`, import.meta.url);
  const response = await fetched(url, "style-unreachable", signal);
  // Of a compressed body only the compressed length is known.
  const total = response.headers.has("content-encoding") ? undefined : Number(response.headers.get("content-length"));
  const pieces = [];
  try {
    const reader = response.body.getReader();
    for (let length = 0; ; ) {
      const { value, done } = await reader.read();
      if (done) break;
      pieces.push(value);
      heard((length += value.length), total);
    }
  } catch (error) {
    throw coded("style-unreachable", error.message);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** What a server answers; where that is nothing of use, an error of this code. */
async function fetched(url, code, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    throw coded(code, error.message);
  }
  if (!response.ok) throw coded(code, `${response.status} ${response.statusText}`);
  return response;
}

function coded(code, message) {
  return Object.assign(new Error(message), { code });
}

/** Our own errors have codes. Whatever else comes up leaves the module in no state to go on. */
function codeOf(error) {
  return typeof error.code === "string" ? error.code : "crashed";
}
