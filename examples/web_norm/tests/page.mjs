// The page in a browser, with WebGPU in software and without any, and the module in other scopes: node page.mjs [FOLDER]
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { browser, closeAll, serve } from "../../style_transfer/tests/web/browser.mjs";
import { scopes } from "./scopes.mjs";

const [folder = "target/web/web_norm"] = process.argv.slice(2);
const { url, close } = await serve(folder);

/** Kilobytes of the module, and gzipped. */
const RAW = 380;
const GZIP = 157;

const tests = {
  async module_is_small() {
    const module = readFileSync(join(folder, "pkg/web_norm_bg.wasm"));
    const [raw, gzip] = [module.length / 1000, gzipSync(module, { level: 9 }).length / 1000];
    if (raw > RAW || gzip > GZIP) throw new Error(`${raw} kB, ${gzip} kB gzipped; at most ${RAW} and ${GZIP}`);
  },
  types_are_there() {
    const types = readFileSync(join(folder, "pkg/web_norm.d.ts"), "utf8");
    const wanted = "forward(x: Float32Array, shape: readonly number[]): Promise<Float32Array>";
    if (!types.includes(wanted)) throw new Error(types.slice(0, 1500));
  },
  page_works_on_the_host_beside_webgpu_in_software: () => visit("software", "host: the browser's GPU is none in hardware"),
  page_works_without_webgpu: () => visit("none", "host: the browser offers no GPU"),
  async gpu_and_host_agree() {
    const [backends, off] = await within("software", async ({ InstanceNorm }) => {
      const x = Float32Array.from({ length: 2 * 3 * 35 * 45 }, (_, i) => (i * i) % 17);
      const norms = [await InstanceNorm.open(3, 1e-3, "gpu"), await InstanceNorm.open(3, 1e-3, "host")];
      norms.forEach((norm) => norm.setWeight(new Float32Array([1, -2, 3])));
      const [a, b] = await Promise.all(norms.map((norm) => norm.forward(x, [2, 3, 35, 45])));
      const off = a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i])), 0);
      return [norms.map((norm) => norm.backend), a.length === x.length && b.some((v) => v > 1) ? off : NaN];
    });
    if (backends.join() !== "gpu,host" || !(off < 1e-5)) throw new Error(`${backends} differ by ${off}`);
  },
  async objects_may_be_changed_and_freed_while_a_call_waits() {
    const [first, second] = await within("software", async ({ InstanceNorm }) => {
      const norm = await InstanceNorm.open(1, 0, "gpu");
      const x = new Float32Array([1, 3]);
      const first = norm.forward(x, [1, 1, 2]);
      norm.setBias(new Float32Array([5]));
      const second = norm.forward(x, [1, 1, 2]);
      norm.free();
      return [(await first).join(), (await second).join()];
    });
    if (first !== "-1,1" || second !== "4,6") throw new Error(`${first} and ${second}`);
  },
  async what_javascript_refuses_leaves_the_object_usable() {
    const told = await within("none", async ({ InstanceNorm }) => {
      const norm = await InstanceNorm.open(1, 0);
      const x = () => new Float32Array([1, 3]);
      const detached = x();
      structuredClone(detached, { transfer: [detached.buffer] });
      const long = Object.defineProperty(x(), "length", { value: 1000 });
      const throwing = { get length() { throw new Error("no"); } };
      const code = (call) => call.then((y) => y.join(), (error) => error.code);
      const told = [
        await code(norm.forward(detached, [1, 1, 2])),
        await code(norm.forward(long, [1, 1, 1000])),
        await code(norm.forward(x(), throwing)),
        await code(norm.forward(x(), new Proxy([], { get() { throw new Error("no"); } }))),
        await code(norm.forward(x(), new Uint32Array([1, 1, 2]))),
      ];
      for (const wrong of [detached, long, "1", undefined, [1]]) {
        try {
          norm.setWeight(wrong);
          told.push("set");
        } catch (error) {
          told.push(error.code);
        }
      }
      norm.setWeight(new Float32Array([2]));
      told.push(await code(norm.forward(x(), [1, 1, 2])));
      norm.free();
      return told;
    });
    const wanted = [...Array(4).fill("argument"), "-1,1", ...Array(5).fill("argument"), "-2,2"];
    if (told.join(" ") !== wanted.join(" ")) throw new Error(told.join(" "));
  },
  async what_is_wrong_is_an_error() {
    const told = await within("none", async ({ InstanceNorm }) => {
      const norm = await InstanceNorm.open(3);
      const x = new Float32Array(6);
      const message = (call) => call.then(() => "accepted", (error) => error.message);
      const told = {
        "the data 5": norm.forward(new Float32Array(5), [1, 3, 2]),
        "3 channels (num_features), got 4": norm.forward(new Float32Array(8), [1, 4, 2]),
        "x is no Float32Array": norm.forward([1, 2, 3, 4, 5, 6], [1, 3, 2]),
        "shape is [1, 3, 2.9], expected whole numbers": norm.forward(x, [1, 3, 2.9]),
        "shape is no array": norm.forward(x),
        "[?, ?, ?]": norm.forward(x, "132"),
        "a single value": norm.forward(new Float32Array(3), [1, 3, 1]),
        NaN: norm.forward(x, [1, 3, NaN]),
        "4294967298": norm.forward(x, [1, 3, 2 ** 32 + 2]),
        "-2": norm.forward(x, [1, 3, -2]),
        "bytes are needed": InstanceNorm.open(1e9),
        "numFeatures is -1": InstanceNorm.open(-1),
        "numFeatures is 1.5": InstanceNorm.open(1.5),
        "at least 1": InstanceNorm.open(0),
        "eps must be finite": InstanceNorm.open(3, NaN),
        "backend is cpu": InstanceNorm.open(3, 1e-5, "cpu"),
      };
      const pairs = Object.entries(told).map(async ([wanted, call]) => [wanted, await message(call)]);
      return Promise.all(pairs);
    });
    for (const [wanted, message] of told) {
      if (!message.includes(wanted)) throw new Error(`${message}, expected ${wanted}`);
    }
  },
  ...scopes(folder),
};

/** What `body` makes of the module in a page of such a browser. */
async function within(kind, body) {
  const page = await (await browser(kind)).newPage();
  await page.goto(url);
  const result = await page.evaluate(`import("./pkg/web_norm.js").then(async (module) => {
    await module.default();
    return (${body})(module);
  })`);
  await page.close();
  return result;
}

async function visit(kind, reason) {
  const page = await (await browser(kind)).newPage();
  await page.goto(url);
  await page.waitForFunction(() => !document.querySelector("#result").textContent.startsWith("working"));
  const result = await page.textContent("#result");
  await page.close();
  const means = result.split("means ")[1]?.split(", ").map(Number) ?? [];
  const right = means.length === 3 && [0, 0, 1].every((mean, i) => Math.abs(means[i] - mean) < 1e-4);
  if (!right || !result.includes(reason)) throw new Error(`${result}, expected ${reason}`);
}

let failed = 0;
for (const [name, run] of Object.entries(tests)) {
  let outcome = "ok";
  try {
    await run();
  } catch (error) {
    outcome = `FAILED\n${error.stack}`;
    failed += 1;
  }
  console.log(`test web_norm_${name} ... ${outcome}`);
}
await closeAll();
close();
const passed = Object.keys(tests).length - failed;
console.log(`test result: ${failed ? "FAILED" : "ok"}. ${passed} passed; ${failed} failed; 0 ignored`);
process.exitCode = failed ? 1 : 0;
