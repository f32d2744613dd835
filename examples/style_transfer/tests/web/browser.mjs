// Chromium under Playwright, the page served, files read: what the tests stand on.
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, extname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { deflateSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(here, "../../../../target");
export const modules = process.env.WEB_TOOLS ?? join(target, "web-tools");
const { chromium } = createRequire(resolve(modules, "node_modules", "-"))("playwright-core");

export const data = (file) => readFileSync(join(here, "../data", file));

/** WebGPU in software, which a page must ask for. */
const SWIFTSHADER = ["--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-webgpu-adapter=swiftshader"];

/** Browsers by what they offer; started when they are first needed. */
const FLAGS = {
  software: SWIFTSHADER,
  none: ["--disable-features=WebGPU"],
  // A name that is no localhost: to the browser an insecure origin.
  insecure: [...SWIFTSHADER, "--host-resolver-rules=MAP page.test 127.0.0.1"],
  camera: [...SWIFTSHADER, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
  // With a camera, and nobody to allow it.
  shy: [...SWIFTSHADER, "--use-fake-device-for-media-stream"],
};
const browsers = new Map();

export async function browser(kind) {
  if (!browsers.has(kind)) {
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    const args = ["--headless=new", "--no-sandbox", ...FLAGS[kind]];
    browsers.set(kind, await chromium.launch({ executablePath, args }));
  }
  return browsers.get(kind);
}

export async function closeAll() {
  for (const browser of browsers.values()) await browser.close();
}

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
  ".png": "image/png",
  ".jpg": "image/jpeg",
};

/** Serves a folder, or leaves an address as it is. The lines of its pages come `pause` milliseconds apart. */
export async function serve(place, pause = 0) {
  if (/^https?:/.test(place)) return { url: place, close() {} };
  const server = createServer(({ url }, response) => {
    let file = join(place, decodeURIComponent(new URL(url, "http://page").pathname));
    if (existsSync(file) && statSync(file).isDirectory()) file = join(file, "index.html");
    if (!existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" });
    const stream = createReadStream(file);
    (pause && file.endsWith(".html") ? Readable.from(slowly(stream, pause)) : stream).pipe(response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://localhost:${server.address().port}/`, close: () => server.close() };
}

async function* slowly(stream, pause) {
  for await (const line of createInterface({ input: stream })) {
    yield `${line}\n`;
    await sleep(pause);
  }
}

/** A tensor of f32 in a safetensors file. */
export function tensor(bytes, name) {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  const { dtype, shape, data_offsets: [from, to] } = header[name];
  if (dtype !== "F32") throw new Error(`${name} is ${dtype}`);
  const values = bytes.subarray(8 + length + from, 8 + length + to);
  return { shape, values: new Float32Array(values.buffer.slice(values.byteOffset, values.byteOffset + values.length)) };
}

/** A white PNG of any size, of which little is stored: one bit a pixel. */
export function png(width, height) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header[8] = 1;
  const rows = Buffer.alloc(height * (1 + Math.ceil(width / 8)), 255);
  for (let row = 0; row < height; row++) rows[row * (rows.length / height)] = 0; // not filtered
  const chunk = (type, bytes) => {
    const named = Buffer.concat([Buffer.from(type), bytes]);
    const around = Buffer.alloc(8);
    around.writeUInt32BE(bytes.length);
    around.writeUInt32BE(crc(named), 4);
    return Buffer.concat([around.subarray(0, 4), named, around.subarray(4)]);
  };
  const signature = Buffer.from("89504e470d0a1a0a", "hex");
  const image = deflateSync(rows, { level: 1 });
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", image), chunk("IEND", Buffer.alloc(0))]);
}

function crc(bytes) {
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}
