// Reads one picture apart from the page's thread: a large one takes seconds and hundreds of megabytes.
import { ended, inspect } from "./header.js";
import { pixelsOf } from "./picture.js";

onmessage = async ({ data: { blob, longest } }) => {
  let known;
  try {
    known = inspect(new Uint8Array(await blob.arrayBuffer()));
    // Colours stay as they are stored, as in the native program.
    const bitmap = await createImageBitmap(ended(blob, known), {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
    const { width, height } = bitmap;
    const pixels = pixelsOf(bitmap, longest);
    postMessage({ known, found: { pixels, width, height } }, [pixels.data.buffer]);
  } catch {
    postMessage({ known }); // the page tries in its own way, and finds words
  }
};
