// Pictures in: decoded, turned upright, laid on white, scaled down where they are too large.

import { ended } from "./header.js";

/** What a network needs, so that its padding has something to mirror. */
export const SMALLEST_SIDE = 5;
/** So many pixels every browser can open. */
const SURELY_OPENED = 4096 * 4096;
/** Drawings have no pixels: the longer side in which they are drawn. */
const DRAWN = 1024;
/** Drawings are drawn by the page itself, which stands still meanwhile: what is drawn within seconds. */
const MOST_PARTS = 100_000;
const MOST_BYTES = 10_000_000;

/** A picture that cannot be used; the message is for people. */
export class PictureError extends Error {}

/** The worker that reads. */
let reader;

/**
 * Decodes a file: `{ pixels, width, height }`, the longer side of the pixels at most `longest`, and how large the
 * picture is; `flaw`, words for people, where it is cut off. Another call ends this one, whose promise then stays open.
 */
export async function read(blob, longest) {
  reader?.terminate();
  const { known, found } = await readApart(blob, longest);
  const picture = found ?? (await readHere(blob, longest, known));
  return known?.whole === false ? { ...picture, flaw: "The file is cut off; what there is of it is painted." } : picture;
}

/**
 * In a worker, whose memory is free again afterwards: what the file says of itself, and the picture, both only as far
 * as they are to be had.
 */
function readApart(blob, longest) {
  const worker = new Worker(new URL("./reader.js", import.meta.url), { type: "module" });
  reader = worker;
  return new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = () => resolve({});
    worker.postMessage({ blob, longest });
  }).finally(() => worker.terminate());
}

/** As an `<img>`, which also takes drawings (SVG), and neither runs what is in them nor fetches what they name. */
async function readHere(blob, longest, known) {
  const isDrawing = blob.type === "image/svg+xml" || /\.svg$/i.test(blob.name);
  const url = URL.createObjectURL(isDrawing ? new Blob([blob], { type: "image/svg+xml" }) : ended(blob, known));
  try {
    if (isDrawing && (blob.size > MOST_BYTES || parts(await blob.text()) > MOST_PARTS)) {
      throw new PictureError(`“${blob.name}” is too large a drawing for this page. Save it as a PNG and choose that.`);
    }
    const image = new Image();
    image.src = url;
    await image.decode();
    if (isDrawing) {
      const [width, height] = [image.naturalWidth || 1, image.naturalHeight || 1];
      const scale = DRAWN / Math.max(width, height);
      [image.width, image.height] = [width, height].map((side) => Math.round(side * scale));
    }
    const { width, height } = image;
    return { pixels: pixelsOf(image, longest), width, height };
  } catch (error) {
    throw error instanceof PictureError ? error : new PictureError(unreadable(blob, known));
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** How many elements a drawing shows. With `<use>` inside of what is used, a small file may show billions. */
function parts(text) {
  const counted = new Map();
  const count = (element) => {
    if (!element) return 0;
    if (!counted.has(element)) {
      counted.set(element, 0); // a circle is not drawn
      const name = element.localName === "use" && (element.getAttribute("href") ?? element.getAttribute("xlink:href"));
      const used = name ? count(drawing.getElementById(name.slice(1))) : 0;
      counted.set(element, [...element.children].reduce((sum, child) => sum + count(child), 1 + used));
    }
    return counted.get(element);
  };
  const drawing = new DOMParser().parseFromString(text, "image/svg+xml");
  return count(drawing.documentElement);
}

function unreadable({ name, type }, { width, height, whole } = {}) {
  const what = name ? `“${name}”` : "This";
  if (/^image\/hei[cf]/.test(type) || /\.hei[cf]$/i.test(name)) {
    return `${what} is a HEIC picture, which this browser cannot read. Save it as a JPEG and choose that.`;
  }
  if (whole && width * height > SURELY_OPENED) {
    return `${what} has ${width} × ${height} pixels, more than this browser can open. Save it smaller and choose that.`;
  }
  if (whole === false) return `${what} is cut off, and too little of it is there to be painted.`;
  return `${what} is no picture that this browser can read, or it is damaged. JPEG, PNG and WebP files work.`;
}

/**
 * The picture's pixels, its longer side at most `longest` of them. `source` is a bitmap, an image, a video or a canvas.
 *
 * Pixels, since what a canvas holds is gone when the browser's GPU process ends.
 */
export function pixelsOf(source, longest) {
  const width = source.videoWidth ?? source.width;
  const height = source.videoHeight ?? source.height;
  if (Math.min(width, height) < SMALLEST_SIDE) {
    throw new PictureError(
      `${width}×${height} pixels are too few to paint: each side needs at least ${SMALLEST_SIDE}.`,
    );
  }
  const scale = Math.min(1, longest / Math.max(width, height));
  const side = (n) => Math.max(SMALLEST_SIDE, Math.round(n * scale));
  const canvas = new OffscreenCanvas(side(width), side(height));
  // Pixels are read back: kept where that is cheap.
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** A canvas of a picture's pixels. */
export function canvasOf(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  canvas.getContext("2d", { alpha: false, willReadFrequently: true }).putImageData(pixels, 0, 0);
  return canvas;
}

/** The first picture among what was dropped or pasted. */
export function pictureIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? files[0];
}
