// The camera: opened with words for every way in which it may not open, closed when it is not looked at.

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser’s settings for this page, or choose a picture.",
  NotFoundError: "No camera was found. Choose a picture, or drop one here.",
  NotReadableError: "The camera is in use by another program.",
};

/** A camera that did not open; the message is for people. */
export class CameraError extends Error {}

export class Camera {
  #video = document.querySelector("#video");
  #stream;
  /** The opening under way; another one, or closing, makes it void. */
  #opening;
  /** Is called when the camera closes by itself: pulled out, or the page not looked at. */
  onclose = () => {};

  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden && this.on) this.onclose();
    });
  }

  get on() {
    return Boolean(this.#stream);
  }

  get isOpening() {
    return Boolean(this.#opening);
  }

  /** The running picture, to be drawn. */
  get video() {
    return this.#video;
  }

  /** Whether it is open; it is not if it was closed while the browser still asked. */
  async open() {
    if (!navigator.mediaDevices) throw new CameraError("Browsers open the camera to pages from https or localhost only.");
    const opening = (this.#opening = Symbol("opening"));
    const wanted = () => this.#opening === opening;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      if (!wanted()) {
        stop(stream);
        return false;
      }
      this.#stream = stream;
      stream.getVideoTracks()[0].addEventListener("ended", () => this.#stream === stream && this.onclose());
      this.#video.srcObject = stream;
      this.#video.hidden = false;
      await this.#video.play();
      if (!wanted()) return false;
      this.#opening = undefined;
      return true;
    } catch (error) {
      if (!wanted()) return false;
      this.close();
      throw new CameraError(REASONS[error.name] ?? `The camera did not open: ${error.message}`);
    }
  }

  close() {
    if (this.#stream) stop(this.#stream);
    this.#stream = this.#opening = undefined;
    this.#video.srcObject = null;
    this.#video.hidden = true;
  }
}

function stop(stream) {
  stream.getTracks().forEach((track) => track.stop());
}
