// Decodes one picture apart from the page's thread: a large one takes seconds and hundreds of megabytes.
import { pixelsOf } from "./picture.js";

onmessage = async ({ data: { blob, longest } }) => {
  try {
    // Colours stay as they are stored, as in the native program.
    const bitmap = await createImageBitmap(blob, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
    const { width, height } = bitmap;
    const pixels = pixelsOf(bitmap, longest);
    postMessage({ pixels, width, height }, [pixels.data.buffer]);
  } catch {
    postMessage(null); // the page tries in its own way, and finds words
  }
};
