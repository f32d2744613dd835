// The frame on the wall: the photograph, the painting blended with it, and the divider between them.

/** How far the divider comes to rest to the right once a painting is there. */
const REST = 30;
const SWEEP_MS = 900;

export class View {
  #frame = document.querySelector("#frame");
  #photograph = document.querySelector("#photograph");
  #shown = document.querySelector("#painting");
  #split = document.querySelector("#split");
  #painting;
  #strength = 1;
  #sweep;

  constructor() {
    this.#split.addEventListener("input", () => {
      cancelAnimationFrame(this.#sweep);
      this.#place();
    });
    this.#place();
  }

  get hasPainting() {
    return Boolean(this.#painting);
  }

  /** Hangs a photograph; what was painted of another comes down. */
  hang(photograph) {
    cancelAnimationFrame(this.#sweep);
    this.#painting = undefined;
    this.#fit(photograph);
    this.#split.value = 100;
    this.#split.disabled = true;
    this.#place();
  }

  /** Shows what was painted of the photograph; the first time the divider sweeps it open. */
  unveil(pixels, width, height) {
    const first = !this.#painting;
    this.#keep(pixels, width, height);
    this.#split.disabled = false;
    this.#blend();
    if (first) this.#open();
  }

  /** Shows a frame of a film and its painting. */
  film(photograph, pixels) {
    const { width, height } = photograph;
    this.#fit(photograph);
    this.#keep(pixels, width, height);
    this.#split.disabled = false;
    this.#blend();
  }

  /** How much of the painting to show, 0 to 1. */
  set strength(strength) {
    this.#strength = strength;
    this.#blend();
  }

  set title(title) {
    this.#shown.setAttribute("aria-label", title);
  }

  /** Opens the divider without a sweep. */
  rest() {
    cancelAnimationFrame(this.#sweep);
    this.#split.value = REST;
    this.#place();
  }

  /** The painting as a PNG file's bytes, blended as it is shown. */
  png() {
    return new Promise((resolve) => this.#shown.toBlob(resolve, "image/png"));
  }

  #fit(photograph) {
    const { width, height } = photograph;
    for (const canvas of [this.#photograph, this.#shown]) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    this.#frame.style.setProperty("--ratio", width / height);
    context(this.#photograph).drawImage(photograph, 0, 0);
  }

  #keep(pixels, width, height) {
    this.#painting ??= document.createElement("canvas");
    Object.assign(this.#painting, { width, height });
    context(this.#painting).putImageData(new ImageData(pixels, width, height), 0, 0);
  }

  #blend() {
    if (!this.#painting) return;
    const to = context(this.#shown);
    to.globalAlpha = 1;
    to.drawImage(this.#photograph, 0, 0);
    to.globalAlpha = this.#strength;
    to.drawImage(this.#painting, 0, 0);
  }

  #place() {
    const percent = this.#split.value;
    this.#frame.style.setProperty("--split", percent / 100);
    this.#frame.dataset.split = percent;
    this.#split.setAttribute("aria-valuetext", `${Math.round(percent)} % photograph`);
  }

  #open() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return this.rest();
    const began = performance.now();
    const step = (now) => {
      const t = Math.min(1, Math.max(0, (now - began) / SWEEP_MS));
      this.#split.value = 100 + (REST - 100) * (1 - (1 - t) ** 3);
      this.#place();
      if (t < 1) this.#sweep = requestAnimationFrame(step);
    };
    this.#sweep = requestAnimationFrame(step);
  }
}

function context(canvas) {
  return canvas.getContext("2d", { alpha: false, willReadFrequently: true });
}
