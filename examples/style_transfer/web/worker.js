// All work on pictures, apart from the page's thread: opens a back end, fetches styles, paints, and opens the back end
// again when its device is lost.
import init, { Painter } from "./pkg/style_transfer.js";

/** Losses in a row after which the processor takes over. */
const MOST_LOSSES = 2;

const weights = new Map();
const devices = [];
let painter, preference, style;

// Paintings come one after the other; a device can be lost meanwhile.
let queue = Promise.resolve();
onmessage = ({ data }) => {
  if (data.type === "lose-device") return devices.forEach((device) => device.destroy());
  queue = queue.then(() => (data.type === "open" ? open(data) : paint(data)));
};

async function open(request) {
  preference = request.preference;
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
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  // Servers that do not know wasm's media type cannot stream it.
  const streams = response.headers.get("content-type")?.startsWith("application/wasm");
  return streams ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
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
  for (let losses = 0; ; losses++) {
    try {
      const painted = await paintOnce(request);
      return postMessage({ type: "painted", id, ...painted }, [painted.pixels.buffer]);
    } catch (error) {
      const code = codeOf(error);
      if (code !== "device-lost") {
        const { message, longestSide } = error;
        return postMessage({ type: "failed", id, code, message, longestSide });
      }
      await reopen(losses < MOST_LOSSES ? preference : "host");
    }
  }
}

/** After a loss: the same back end again, or the processor where that does not open. */
async function reopen(wanted) {
  painter.free();
  devices.length = 0;
  style = undefined;
  try {
    painter = await Painter.open(wanted);
  } catch {
    painter = await Painter.open("host");
  }
  postMessage({ type: "reopened", ...(await description()) });
}

async function paintOnce({ id, style: name, pixels, width, height }) {
  const times = {};
  let began = performance.now();
  const lap = () => {
    const now = performance.now();
    const ms = now - began;
    began = now;
    return ms;
  };
  if (style !== name) {
    const bytes = await load(name);
    times.fetch = lap();
    await painter.setStyle(bytes);
    style = name;
    times.prepare = lap();
  }
  const stages = [];
  let last = 0;
  const progress = (stage, done, total) => {
    stages.push({ stage, count: done - last, ms: lap() });
    last = done;
    postMessage({ type: "progress", id, stage, done, total });
  };
  const painted = await painter.stylize(pixels, width, height, progress);
  times.readback = lap();
  return { pixels: painted, width, height, stages, times };
}

async function load(name) {
  if (!weights.has(name)) {
    let response;
    try {
      response = await fetch(new URL(`./styles/${name}.safetensors`, import.meta.url));
    } catch (error) {
      throw coded("style-unreachable", error.message);
    }
    if (!response.ok) throw coded("style-unreachable", `${response.status} ${response.statusText}`);
    weights.set(name, new Uint8Array(await response.arrayBuffer()));
  }
  return weights.get(name);
}

function coded(code, message) {
  return Object.assign(new Error(message), { code });
}

/** Our own errors have codes. Whatever else comes up leaves the module in no state to go on. */
function codeOf(error) {
  return typeof error.code === "string" ? error.code : "crashed";
}
