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
  #broken = false;
  #crashes = 0;
  #ids = 0;
  /** What the worker says of its back end, once it does. */
  backend;

  constructor(options) {
    super();
    this.#options = options;
    this.#start();
  }

  /** Asks for a painting, in place of any that is not finished. `progress(done, total, stage)` hears how far it is. */
  paint(request, progress) {
    return new Promise((resolve, reject) => {
      const job = { request, progress, resolve, reject, id: ++this.#ids };
      this.#waiting?.reject(new Superseded());
      this.#waiting = job;
      if (!this.#running) return this.#next();
      // The processor cannot be interrupted, its worker can; a GPU is done soon, and its worker worth keeping.
      if (this.backend?.backend === "host") {
        this.#worker.terminate();
        this.#start();
        this.#settle((job) => job.reject(new Superseded()));
      }
    });
  }

  /** For tests, where the page was opened with `fault`. */
  loseDevice() {
    this.#worker.postMessage({ type: "lose-device" });
  }

  #start() {
    this.#broken = false;
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker = worker;
    // What a worker said before its end may come after it.
    const current = (then) => (event) => worker === this.#worker && then(event);
    worker.onmessage = current(({ data }) => this.#hear(data));
    // Without a message it did not even load.
    worker.onerror = current(({ message }) => this.#crashed(message ?? "its worker did not start", Boolean(message)));
    worker.postMessage({ type: "open", module: this.#module, ...this.#options });
  }

  #next() {
    const job = this.#waiting;
    if (!job) return;
    if (this.#broken) {
      this.#worker.terminate();
      this.#start();
    }
    [this.#running, this.#waiting] = [job, undefined];
    job.began = performance.now();
    this.#worker.postMessage({ type: "paint", id: job.id, ...job.request });
  }

  #settle(how) {
    const job = this.#running;
    this.#running = undefined;
    if (job) how(job);
    this.#next();
  }

  #hear({ type, ...told }) {
    if (type === "opened" || type === "reopened") {
      const { module, ...backend } = told;
      this.#module = module ?? this.#module;
      this.backend = backend;
      return this.dispatchEvent(new CustomEvent(type, { detail: backend }));
    }
    if (type === "unopened") {
      this.#broken = true; // the next wish tries again
      return this.#settle((job) => job.reject(Object.assign(new Error(told.message), told)));
    }
    if (told.id !== this.#running?.id) return;
    if (type === "progress") return this.#running.progress?.(told.done, told.total, told.stage);
    if (told.code === "crashed") return this.#crashed(told.message);
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
    if (++this.#crashes > 1) {
      this.#broken = true; // the next wish tries again
      const error = Object.assign(new Error(message), { code: worked ? "crashed" : "unreachable" });
      return this.#settle((job) => job.reject(error));
    }
    if (worked) this.dispatchEvent(new CustomEvent("crashed", { detail: { message } }));
    this.#start();
    this.#waiting ??= this.#running;
    this.#running = undefined;
    this.#next();
  }
}
