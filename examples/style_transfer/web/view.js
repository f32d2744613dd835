// The frame on the wall: the photograph, the painting blended with it, and the divider between them.
import { canvasOf } from "./picture.js";

/** How far the divider comes to rest to the right once a painting is there; of the picture, not of its mat. */
const REST = 30;
/** Widths by heights of the frame: a narrower or wider picture gets a mat, since divider and tags need room. */
const NARROWEST = 0.4;
const WIDEST = 4;
const SWEEP_MS = 900;

export class View {
  #frame = document.querySelector("#frame");
  #photograph = document.querySelector("#photograph");
  #shown = document.querySelector("#painting");
  #split = document.querySelector("#split");
  /** Pixels, and of the painting a canvas too, to be blended. */
  #source;
  #pixels;
  #painting;
  #strength = 1;
  #rest = REST;
  #sweep;

  constructor() {
    this.#split.addEventListener("input", () => {
      cancelAnimationFrame(this.#sweep);
      this.#place();
    });
    for (const canvas of [this.#photograph, this.#shown]) {
      canvas.addEventListener("contextrestored", () => this.#restore());
    }
  }

  /** Hangs a photograph's pixels; what was painted of another comes down. */
  hang(photograph) {
    cancelAnimationFrame(this.#sweep);
    this.#painting = undefined;
    this.#fit(photograph);
    this.#split.value = 100;
    this.#split.disabled = true;
    this.#place();
  }

  /** Shows the pixels painted of the photograph; the first time the divider sweeps it open. */
  unveil(painting) {
    const first = !this.#painting;
    this.#keep(painting);
    this.#split.disabled = false;
    this.#blend();
    if (first) this.#open();
  }

  /** Shows a frame of a film and its painting. */
  film(photograph, painting) {
    this.#fit(photograph);
    this.#keep(painting);
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
    this.#split.value = this.#rest;
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
    const ratio = width / height;
    this.#frame.style.setProperty("--ratio", Math.min(WIDEST, Math.max(NARROWEST, ratio)));
    this.#rest = 50 + (REST - 50) * Math.min(1, ratio / NARROWEST);
    this.#source = photograph;
    context(this.#photograph).putImageData(photograph, 0, 0);
  }

  #keep(pixels) {
    this.#pixels = pixels;
    this.#painting = canvasOf(pixels);
  }

  /** Canvases come back empty. */
  #restore() {
    if (this.#source) context(this.#photograph).putImageData(this.#source, 0, 0);
    if (this.#painting) this.#keep(this.#pixels);
    this.#blend();
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
      this.#split.value = 100 + (this.#rest - 100) * (1 - (1 - t) ** 3);
      this.#place();
      if (t < 1) this.#sweep = requestAnimationFrame(step);
    };
    this.#sweep = requestAnimationFrame(step);
  }
}

function context(canvas) {
  return canvas.getContext("2d", { alpha: false, willReadFrequently: true });
}
