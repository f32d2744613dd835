// What a picture file says of itself, read without decoding it.

/**
 * `{ width, height, whole }` of a JPEG, PNG or WebP file's bytes: its size, as far as that can be found, and whether
 * its end is there. Undefined for other files.
 */
export function inspect(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const letters = (at, count) => String.fromCharCode(...bytes.subarray(at, at + count));
  try {
    if (letters(0, 4) === "\x89PNG") return png(view, letters);
    if (letters(0, 3) === "\xff\xd8\xff") return jpeg(bytes, view);
    if (letters(0, 4) === "RIFF" && letters(8, 4) === "WEBP") return webp(view, letters);
  } catch (error) {
    if (error instanceof RangeError) return { whole: false }; // it ends in its header
    throw error;
  }
}

/** Chunks: length, name, bytes, checksum; the last is IEND. */
function png(view, letters) {
  const size = { width: view.getUint32(16), height: view.getUint32(20) };
  for (let at = 8; at + 12 <= view.byteLength; at += 12 + view.getUint32(at)) {
    if (letters(at + 4, 4) === "IEND") return { ...size, whole: true };
  }
  return { ...size, whole: false };
}

/** Segments: 0xff, kind, length, bytes; after the one that starts the scan, 0xff 0xd9 can only be the end. */
function jpeg(bytes, view) {
  const size = {};
  for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
    while (view.getUint8(at + 1) === 0xff) at += 1; // fill bytes
    const kind = view.getUint8(at + 1);
    const isFrame = kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind);
    if (isFrame) Object.assign(size, { height: view.getUint16(at + 5), width: view.getUint16(at + 7) });
    if (kind !== 0xda) continue;
    // Cameras append previews and films: it need not be the file's end.
    let end = at;
    while ((end = bytes.indexOf(0xff, end + 1)) >= 0 && bytes[end + 1] !== 0xd9);
    return { ...size, whole: end >= 0 };
  }
}

/** The first chunk is one of three kinds, each with its own way to write the size. */
function webp(view, letters) {
  const whole = view.getUint32(4, true) + 8 <= view.byteLength;
  const three = (at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  const bits = view.getUint32(21, true);
  const sides = {
    "VP8 ": () => [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff],
    VP8L: () => [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1],
    VP8X: () => [three(24) + 1, three(27) + 1],
  };
  const [width, height] = sides[letters(12, 4)]?.() ?? [];
  return { width, height, whole };
}
