// Pictures in: decoded, turned upright, laid on white, scaled down where they are too large.

/** What a network needs, so that its padding has something to mirror. */
export const SMALLEST_SIDE = 5;

/** A picture that cannot be used; the message is for people. */
export class PictureError extends Error {}

/** Decodes a file. Colours stay as they are stored, as in the native program. */
export async function decode(blob) {
  try {
    return await createImageBitmap(blob, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
  } catch {
    const what = blob.name ? `“${blob.name}”` : "This";
    throw new PictureError(`${what} is no picture that this browser can read, or it is damaged.`);
  }
}

/**
 * The picture's pixels, its longer side at most `longest` of them. `source` is a bitmap, a video, or a canvas.
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
  const canvas = Object.assign(document.createElement("canvas"), { width: side(width), height: side(height) });
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
  const { width, height } = pixels;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d", { alpha: false, willReadFrequently: true }).putImageData(pixels, 0, 0);
  return canvas;
}

/** The first picture among what was dropped or pasted. */
export function pictureIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? files[0];
}
