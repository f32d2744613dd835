// The page's side of the worker: one painting at a time, the latest wish wins.

/** Why a painting was not finished: another was asked for meanwhile. */
export class Superseded extends Error {}

/**
 * Sends "opened", "reopened" and "crashed" events. `paint` resolves to
 * `{ pixels, width, height, stages, times, total }`.
 */
export class Studio extends EventTarget {
  #options;
  #worker;
  #module;
  #running;
  #waiting;
  #opened = false;
  #broken = false;
  #crashes = 0;
  #ids = 0;
  /** What the worker said last of its back end, once it did. */
  backend;

  /** `style()` is the style that will be asked for first, most likely. */
  constructor(options) {
    super();
    this.#options = options;
    this.#start();
  }

  /**
   * Asks for a painting, in place of any that is not finished. `request()` is called as soon as the back end is known,
   * and again for another one that takes over: the size depends on it. `progress(what, done, total)` hears how far
   * it is.
   */
  paint(request, progress) {
    return new Promise((resolve, reject) => {
      const job = { request, progress, resolve, reject, id: ++this.#ids };
      this.#waiting?.reject(new Superseded());
      this.#waiting = job;
      if (!this.#running) return this.#next();
      // The processor cannot be interrupted, its worker can. A GPU is done soon and its worker worth keeping: that
      // one only stops to wait for the network.
      if (this.backend.backend === "host") {
        this.#worker.terminate();
        this.#start();
        this.#settle((job) => job.reject(new Superseded()));
      } else {
        this.leave();
      }
    });
  }

  /** The painting under way fails with "left" if it waits for the network; otherwise it goes on. */
  leave() {
    this.#worker.postMessage({ type: "leave" });
  }

  /** For tests, where the page was opened with `fault`. */
  loseDevice() {
    this.#worker.postMessage({ type: "lose-device" });
  }

  #start() {
    this.#opened = this.#broken = false;
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker = worker;
    // What a worker said before its end may come after it.
    const current = (then) => (event) => worker === this.#worker && then(event);
    worker.onmessage = current(({ data }) => this.#hear(data));
    // Without a message it did not even load.
    worker.onerror = current(({ message }) => this.#crashed(message ?? "its worker did not start", Boolean(message)));
    const { style, ...options } = this.#options;
    worker.postMessage({ type: "open", module: this.#module, style: style(), ...options });
  }

  #next() {
    if (!this.#waiting) return;
    if (this.#broken) {
      this.#worker.terminate();
      this.#start();
    }
    this.#waiting.began ??= performance.now();
    if (!this.#opened) return; // "opened" comes here again
    [this.#running, this.#waiting] = [this.#waiting, undefined];
    this.#send();
  }

  #send() {
    const { id, request } = this.#running;
    try {
      this.#worker.postMessage({ type: "paint", id, ...request() });
    } catch (error) {
      this.#settle((job) => job.reject(error));
    }
  }

  #settle(how) {
    const job = this.#running;
    this.#running = undefined;
    if (job) how(job);
    this.#next();
  }

  /** What waits is not to be had; the next wish tries again. */
  #refuse(error) {
    this.#broken = true;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }

  #hear({ type, ...told }) {
    if (type === "opened" || type === "reopened") {
      const { module, ...backend } = told;
      this.#module = module ?? this.#module;
      this.backend = backend;
      this.#opened = true;
      this.dispatchEvent(new CustomEvent(type, { detail: backend }));
      return this.#running || this.#next();
    }
    if (type === "unopened") return this.#refuse(Object.assign(new Error(told.message), told));
    if (told.id !== this.#running?.id) return;
    if (type === "progress") return this.#running.progress?.(told.what, told.done, told.total);
    if (told.code === "crashed") return this.#crashed(told.message);
    // The device was lost: from the start, in the size that suits what was opened instead.
    if (type === "again" && !this.#waiting) return this.#send();
    this.#settle((job) => {
      if (this.#waiting) return job.reject(new Superseded());
      if (type === "failed") return job.reject(Object.assign(new Error(told.message), told));
      this.#crashes = 0;
      job.resolve({ ...told, total: performance.now() - job.began });
    });
  }

  /** A new worker gets the same painting to do, on the processor; the second crash is the painting's fault. */
  #crashed(message, worked = true) {
    this.#worker.terminate();
    if (worked) this.#options = { ...this.#options, preference: "host" };
    if (this.#waiting) this.#running?.reject(new Superseded());
    this.#waiting ??= this.#running;
    this.#running = undefined;
    if (++this.#crashes > 1) {
      return this.#refuse(Object.assign(new Error(message), { code: worked ? "crashed" : "unreachable" }));
    }
    if (worked) this.dispatchEvent(new CustomEvent("crashed", { detail: { message } }));
    this.#start();
  }
}
