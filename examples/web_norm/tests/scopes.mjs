// The module in the global scopes of JavaScript: Node's and Deno's, those that a test pretends, workers and worklets.
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { browser, modules, serve } from "../../style_transfer/tests/web/browser.mjs";

/** Milliseconds until a promise is taken for one that never settles. */
const LIMIT = 60_000;
const ABSENT = "host: no WebGPU: this scope has no navigator.gpu";
const ELSEWHERE = "host: no WebGPU: wgpu uses navigator.gpu in a window or a worker, and this scope is neither";
const NONE = "host: the browser offers no GPU";
const SOFTWARE = "host: the browser's GPU is none in hardware";

/** The folder that was built, with a script that every scope runs. */
function prepared(built) {
  const folder = mkdtempSync(join(tmpdir(), "web-norm-"));
  cpSync(built, folder, { recursive: true });
  const put = (name, text) => writeFileSync(join(folder, name), text);
  // For Node, which takes a .js for CommonJS otherwise.
  put("package.json", '{ "type": "module" }');
  put("normalize.js", `import init, { InstanceNorm } from "./pkg/web_norm.js";
/** Back end, result, and what becomes of asking for a GPU. */
export default async function normalize(wasm) {
  await init({ module_or_path: wasm });
  const x = new Float32Array([1, 3, 2, 6]);
  const norm = await InstanceNorm.open(2, 0);
  const y = await norm.forward(x, [1, 2, 2]);
  const wanted = InstanceNorm.open(2, 0, "gpu").then((norm) => norm.forward(x, [1, 2, 2]));
  const rounded = (y) => Array.from(y, (v) => Math.round(v * 1e5) / 1e5).join();
  const gpu = await wanted.then(rounded, (error) => error.code);
  return [norm.backend, rounded(y), gpu].join(" | ");
}
`);
  const reply = (send) => `import normalize from "./normalize.js";
${send("normalize(fetch('./pkg/web_norm_bg.wasm')).catch((error) => `failed: ${error}`)")}`;
  put("worker.js", reply((told) => `${told}.then(postMessage);`));
  put("shared.js", reply((told) => `const told = ${told};
onconnect = ({ ports: [port] }) => told.then((told) => port.postMessage(told));`));
  put("service.js", reply((told) => `onmessage = ({ source }) => ${told}.then((told) => source.postMessage(told));`));
  // A worklet has no fetch, nor what decodes text; a page that has text for it brings its own.
  put("decoder.js", `globalThis.TextDecoder ??= class {
  decode(bytes = []) { return decodeURIComponent(Array.from(bytes, (b) => "%" + (b + 256).toString(16).slice(1)).join("")); }
};
globalThis.TextEncoder ??= class {
  encodeInto(text, bytes) {
    const codes = unescape(encodeURIComponent(text));
    for (let i = 0; i < codes.length; i++) bytes[i] = codes.charCodeAt(i);
    return { read: text.length, written: codes.length };
  }
  encode(text) { return Uint8Array.from(unescape(encodeURIComponent(text)), (c) => c.charCodeAt(0)); }
};
`);
  put("worklet.js", `import "./decoder.js";
import normalize from "./normalize.js";
registerProcessor("normalize", class extends AudioWorkletProcessor {
  constructor({ processorOptions: { wasm } }) {
    super();
    normalize(wasm).catch((error) => \`failed: \${error}\`).then((told) => this.port.postMessage(told));
  }
  process() { return true; }
});
`);
  put("file.js", `import { readFileSync } from "node:fs";
import normalize from "./normalize.js";
const told = await normalize(readFileSync(new URL("./pkg/web_norm_bg.wasm", import.meta.url)));
globalThis.postMessage ? postMessage(told) : console.log(told);
`);
  put("started.js", `const worker = new Worker(new URL("./file.js", import.meta.url), { type: "module" });
worker.onmessage = ({ data }) => { console.log(data); worker.terminate(); };
`);
  return folder;
}

const pretended = (what) => `const have = (name, get) => Object.defineProperty(globalThis, name, { get, configurable: true });
const navigator = (value) => have("navigator", () => value);
const fail = () => { throw new Error("no"); };
${what}
`;
const window = `have("Window", () => class {}); `;
const worker = `have("WorkerGlobalScope", () => class {}); `;
const adapter = (answer) => `navigator({ gpu: { requestAdapter: ${answer} } }); `;

/** Scopes that a test makes of Node's, and what is said in each. */
const PRETENDED = [
  ["", ABSENT],
  [`navigator(undefined);`, ABSENT],
  [`navigator(null);`, ABSENT],
  [`have("navigator", fail);`, ABSENT],
  [`navigator("words");`, ABSENT],
  [`navigator({ gpu: undefined });`, ABSENT],
  [`navigator({ gpu: null });`, ABSENT],
  [`navigator({ get gpu() { return fail(); } });`, ABSENT],
  [`navigator({ gpu: {} });`, ABSENT],
  [adapter("async () => null"), ELSEWHERE],
  [window + `navigator(undefined);`, ABSENT],
  [window + `have("navigator", fail);`, ABSENT],
  [window + `navigator({ get gpu() { return fail(); } });`, ABSENT],
  [window + `navigator({ gpu: { get requestAdapter() { return fail(); } } });`, ABSENT],
  [worker + `navigator(null);`, ABSENT],
  [worker + `navigator({ gpu: {} });`, ABSENT],
  [window + adapter("async () => null"), NONE],
  [window + adapter("async () => undefined"), NONE],
  [window + adapter("async () => fail()"), NONE],
  [worker + adapter("async () => null"), NONE],
];

/** Tests of what was built in a folder. */
export function scopes(built) {
  const folder = prepared(built);
  process.on("exit", () => rmSync(folder, { recursive: true }));
  const deno = resolve(modules, "node_modules/.bin/deno");
  const run = async (program, ...options) => {
    const { stdout } = await promisify(execFile)(program, [...options], { cwd: folder, timeout: LIMIT });
    return stdout.trim();
  };
  const same = (told, backend, gpu = "no-gpu") => {
    const wanted = `${backend} | -1,1,-1,1 | ${gpu}`;
    if (told !== wanted) throw new Error(`${told}\nexpected ${wanted}`);
  };
  const inPage = async (kind, body, host = "localhost") => {
    const { url, close } = await serve(folder);
    const page = await (await browser(kind)).newPage();
    await page.goto(url.replace("localhost", host));
    const late = sleep(LIMIT, "no answer", { ref: false });
    const told = await Promise.race([page.evaluate(body), late]);
    await page.close();
    close();
    return told;
  };
  const dedicated = () => new Promise((told, fail) => {
    const worker = new Worker("worker.js", { type: "module" });
    worker.onmessage = ({ data }) => told(data);
    worker.onerror = fail;
  });
  const shared = () => new Promise((told, fail) => {
    const worker = new SharedWorker("shared.js", { type: "module" });
    worker.port.onmessage = ({ data }) => told(data);
    worker.onerror = fail;
  });
  const service = async () => {
    const registration = await navigator.serviceWorker.register("service.js", { type: "module" });
    await navigator.serviceWorker.ready;
    const told = new Promise((told) => navigator.serviceWorker.addEventListener("message", ({ data }) => told(data)));
    navigator.serviceWorker.startMessages();
    registration.active.postMessage("");
    return told;
  };
  const worklet = async () => {
    const audio = new OfflineAudioContext(1, 128, 44100);
    await audio.audioWorklet.addModule("worklet.js");
    const wasm = await (await fetch("pkg/web_norm_bg.wasm")).arrayBuffer();
    const node = new AudioWorkletNode(audio, "normalize", { processorOptions: { wasm } });
    const told = new Promise((told) => (node.port.onmessage = ({ data }) => told(data)));
    node.connect(audio.destination);
    await audio.startRendering();
    return told;
  };
  return {
    async scope_of_node() {
      same(await run("node", "file.js"), ABSENT);
    },
    async scopes_of_deno() {
      for (const file of ["file.js", "started.js"]) {
        const told = await run(deno, "run", "-A", "--no-lock", file);
        // Deno brings WebGPU; whether there is an adapter for it depends on the machine.
        if (told.endsWith("| no-gpu")) same(told, NONE);
        else same(told, told.startsWith("gpu") ? "gpu" : SOFTWARE, "-1,1,-1,1");
      }
    },
    async scopes_without_this_or_that() {
      for (const [what, reason] of PRETENDED) {
        writeFileSync(join(folder, "pretend.js"), pretended(what));
        const told = await run("node", "--import", "./pretend.js", "file.js").catch((error) => `${error}`);
        if (!told.startsWith(`${reason} | -1,1,-1,1 | no-gpu`)) throw new Error(`${what}\n${told}\nexpected ${reason}`);
      }
    },
    async scope_of_an_insecure_page() {
      const page = "import('./normalize.js').then((module) => module.default(fetch('pkg/web_norm_bg.wasm')))";
      same(await inPage("insecure", page, "page.test"), ABSENT);
    },
    async scope_of_a_worker() {
      same(await inPage("none", dedicated), NONE);
      same(await inPage("software", dedicated), SOFTWARE, "-1,1,-1,1");
    },
    async scope_of_a_shared_worker() {
      same(await inPage("none", shared), NONE);
      same(await inPage("software", shared), SOFTWARE, "-1,1,-1,1");
    },
    async scope_of_a_service_worker() {
      same(await inPage("none", service), NONE);
      same(await inPage("software", service), SOFTWARE, "-1,1,-1,1");
    },
    async scope_of_a_worklet() {
      same(await inPage("none", worklet), ABSENT);
      same(await inPage("software", worklet), ABSENT);
    },
  };
}
