// What a picture file says of itself, read without decoding it.

/**
 * `{ width, height, whole, end }` of a JPEG, PNG or WebP file's bytes: its size, as far as that can be found, whether its
 * end is there, and the bytes of an end that {@link ended} gives it. Undefined for other files.
 */
export function inspect(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const letters = (at, count) => String.fromCharCode(...bytes.subarray(at, at + count));
  const cut = { whole: false };
  try {
    if (letters(0, 4) === "\x89PNG") return png(view, letters);
    if (letters(0, 3) === "\xff\xd8\xff") return jpeg(bytes, view, cut);
    if (letters(0, 4) === "RIFF" && letters(8, 4) === "WEBP") return webp(view, letters);
  } catch (error) {
    if (error instanceof RangeError) return cut; // it ends in a header
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

/**
 * Markers: 0xff, as often as it likes, and a kind. Most begin a segment, with its length; the last is 0xd9. What lies
 * between segments is the picture itself, where 0xff stands before 0 and before markers that restart it. `cut` is what
 * is known if it turns out to be cut off.
 */
function jpeg(bytes, view, cut) {
  let at = 2;
  while ((at = bytes.indexOf(0xff, at)) >= 0) {
    while (view.getUint8(at + 1) === 0xff) at += 1; // fill bytes
    const kind = view.getUint8(at + 1);
    // Cameras append previews and films: it need not be the file's end.
    if (kind === 0xd9) return { ...cut, whole: true, end: undefined };
    const isFrame = kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind);
    if (isFrame) Object.assign(cut, { height: view.getUint16(at + 5), width: view.getUint16(at + 7) });
    const isAlone = kind <= 0x01 || (kind >= 0xd0 && kind <= 0xd8);
    at += isAlone ? 2 : 2 + view.getUint16(at + 2);
    // Some of the picture is there. Browsers leave out the last rows of a file that has no end marker.
    if (kind === 0xda && at < bytes.length) cut.end = [0xff, 0xd9];
  }
  return cut;
}

/** The file as the browser decodes the most of it: with an end, if it has none. */
export function ended(blob, known) {
  return known?.end ? new Blob([blob, new Uint8Array(known.end)], { type: blob.type }) : blob;
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
