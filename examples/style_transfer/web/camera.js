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

  get on() {
    return Boolean(this.#stream);
  }

  /** The running picture, to be drawn. */
  get video() {
    return this.#video;
  }

  async open() {
    if (!navigator.mediaDevices) throw new CameraError("Browsers open the camera to pages from https or localhost only.");
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      this.#video.srcObject = this.#stream;
      this.#video.hidden = false;
      await this.#video.play();
    } catch (error) {
      this.close();
      throw new CameraError(REASONS[error.name] ?? `The camera did not open: ${error.message}`);
    }
  }

  close() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = undefined;
    this.#video.srcObject = null;
    this.#video.hidden = true;
  }
}
