// The page in a browser: node page.mjs [FOLDER|URL [SCREENSHOTS [PART OF A TEST'S NAME]]]
//
// FOLDER is what `examples/web.sh build` makes, target/web/style_transfer if left out. Without a folder for screenshots
// none are kept. Needs Chromium (CHROMIUM names it) and playwright-core in $WEB_TOOLS/node_modules, target/web-tools if
// that is not set. WGNORM_ALL_CASES=1 paints in all styles on WebGPU in software, which is slow.
import { mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";
import { browser, closeAll, data, png, serve, tensor } from "./browser.mjs";

const [place = "target/web/style_transfer", screenshots, only = ""] = process.argv.slice(2);
const STYLES = ["glass", "ink", "swirl", "waves"];
const FLOWER = data("flower_128x128.png");
/** SwiftShader takes seconds to compile a pipeline. */
const SLOW = 240_000;

const tests = [];
const test = (name, run) => tests.push({ name, run });
const { url, close } = await serve(place);

function check(holds, message) {
  if (!holds) throw new Error(message);
}

function equal(found, expected, what) {
  check(found === expected, `${what}: ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
}

// --- the page, as a visitor has it

/** A page in a browser of its own memory; errors on its console, but for those that `allow` matches, fail the test. */
async function visit(run, { kind = "software", query = "?backend=host", origin = url, allow, ...options } = {}) {
  const context = await (await browser(kind)).newContext({ reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  try {
    page.setDefaultTimeout(query.includes("gpu") ? SLOW : 30_000);
    await options.before?.(page);
    await page.goto(origin + query, { waitUntil: "commit" });
    await run(page);
    const left = errors.filter((error) => !allow?.test(error));
    check(left.length === 0, `on the console: ${left.join("; ")}`);
  } finally {
    await context.close();
  }
}

const state = (page, name) => page.waitForSelector(`html[data-state=${name}]`, { state: "attached" });
const status = (page) => page.textContent("#status");

async function painted(page) {
  await page.waitForSelector("html:is([data-state=painted], [data-state=failed])", { state: "attached" });
  const failed = (await page.getAttribute("html", "data-state")) === "failed";
  check(!failed, `no painting: ${await status(page)}`);
}

/** Drops a file, or pastes it, where no style is chosen meanwhile. */
async function bring(page, bytes, name, how = "drop") {
  const file = { base64: Buffer.from(bytes).toString("base64"), name, how };
  await page.evaluate(async ({ base64, name, how }) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const type = { png: "image/png", jpg: "image/jpeg", svg: "image/svg+xml" }[name.split(".").pop()] ?? "";
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, { type }));
    const event =
      how === "drop"
        ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
  }, file);
}

const hangs = (page, title) =>
  page.waitForFunction((title) => document.querySelector("#title").textContent === title, title);

const says = (page, words) =>
  page.waitForFunction((words) => document.querySelector("#status").textContent.includes(words), words);

/** Whether the first stages are painted. */
const underWay = (page) =>
  page.waitForFunction(() => document.querySelector("#progress[max='16']")?.value >= 1);

const focused = (page) => page.evaluate(() => document.activeElement.id);

/** A painter of negatives in the module's place: fast, and it fails as it is told. `open` and `stylize` are code. */
function fake({ open = "", stylize = "" }) {
  const body = `
    export default async () => {};
    let opened = 0;
    export class Painter {
      static async open(preference) {
        const painter = Object.assign(new Painter(), { backend: preference === "host" ? "host" : "gpu" });
        ${open}
        return painter;
      }
      async setStyle() {}
      async stylize(pixels, width, height, progress) {
        ${stylize}
        progress("all", 16, 16);
        return pixels.map((value, at) => (at % 4 === 3 ? value : 255 - value));
      }
      free() {}
    }`;
  // Without WebGPU in the browser nobody can say that it is software only.
  const before = (page) =>
    page.route("**/pkg/style_transfer.js", (route) => route.fulfill({ contentType: "text/javascript", body }));
  return { kind: "none", query: "", before };
}

/** Brings the flower and waits for its painting. */
async function paintFlower(page, how) {
  await bring(page, FLOWER, "flower.png", how);
  await hangs(page, "flower");
  await painted(page);
}

async function pixels(page, canvas = "painting") {
  const { width, height, base64 } = await page.evaluate((id) => {
    const canvas = document.getElementById(id);
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let letters = "";
    for (const value of data) letters += String.fromCharCode(value);
    return { width, height, base64: btoa(letters) };
  }, canvas);
  return { width, height, rgba: Buffer.from(base64, "base64") };
}

/** A picture made in the page: `draw` is the body of a function of a 2d context. */
async function made(page, width, height, draw, type = "image/png") {
  const base64 = await page.evaluate(async ([width, height, draw, type]) => {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    new Function("context", draw)(canvas.getContext("2d"));
    return canvas.toDataURL(type).split(",")[1];
  }, [width, height, draw, type]);
  return Buffer.from(base64, "base64");
}

// --- comparing

/** What PyTorch makes of the flower, as pixels. */
function reference(style) {
  const { shape: [, , height, width], values } = tensor(data(`${style}__flower_128x128.safetensors`), "output");
  const rgba = Buffer.alloc(4 * width * height, 255);
  const area = width * height;
  const rounded = (value) => {
    const [floor, rest] = [Math.floor(value), value - Math.floor(value)];
    return rest === 0.5 ? floor + (floor % 2) : Math.round(value);
  };
  for (let at = 0; at < area; at++) {
    for (let colour = 0; colour < 3; colour++) {
      rgba[4 * at + colour] = Math.min(255, Math.max(0, rounded(values[colour * area + at])));
    }
  }
  return { width, height, rgba };
}

/** Values of less than 0.1 apart may be rounded to neighbouring levels; hardly any are. */
function same(found, expected, what) {
  equal(`${found.width}x${found.height}`, `${expected.width}x${expected.height}`, what);
  let [most, sum] = [0, 0];
  for (let at = 0; at < expected.rgba.length; at++) {
    const apart = Math.abs(found.rgba[at] - expected.rgba[at]);
    most = Math.max(most, apart);
    sum += apart;
  }
  const mean = sum / expected.rgba.length;
  check(most <= 1 && mean < 0.01, `${what}: up to ${most} levels apart, ${mean.toFixed(5)} on average`);
}

function differs(a, b) {
  try {
    same(a, b, "");
  } catch {
    return true;
  }
  return false;
}

test("self_test__a_perturbed_painting_is_noticed", async () => {
  const expected = reference("glass");
  for (const at of [0, 30_001]) {
    const perturbed = { ...expected, rgba: Buffer.from(expected.rgba) };
    perturbed.rgba[at] ^= 2;
    check(differs(perturbed, expected), `value ${at} two levels off passed`);
  }
  check(differs(reference("ink"), expected), "another style passed");
});

// --- painting

/** Sums how far the page's parts jump. */
const noteShifts = (page) =>
  page.addInitScript(() => {
    window.shifted = 0;
    const add = (list) => list.getEntries().forEach((entry) => (window.shifted += entry.value));
    new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
  });

async function nothingShifted(page) {
  const shift = await page.evaluate(() => window.shifted);
  check(shift < 0.005, `the layout shifted by ${shift}`);
}

test("first_picture_within_5_s", () =>
  visit(
    async (page) => {
      const began = Date.now();
      await painted(page);
      const took = Date.now() - began;
      console.log(`first picture after ${took} ms (256x256, the processor)`);
      check(took < 5000, `it took ${took} ms`);
      await nothingShifted(page);
      equal(await page.getAttribute("html", "data-backend"), "host", "software is not preferred");
      check((await status(page)).includes("software only"), `no reason told: ${await status(page)}`);
      const time = await page.textContent("#time");
      check((await status(page)).startsWith(`Painted in ${time}.`), `${await status(page)}; the placard: ${time}`);
      equal(await page.locator("#stages tr").count(), 19, "rows of milliseconds");
    },
    { query: "", before: noteShifts },
  ));

for (const width of [360, 1280]) {
  test(`the_page_comes_line_by_line/${width}`, async () => {
    const slow = await serve(place, 50);
    try {
      await visit(async (page) => (await painted(page), await nothingShifted(page)), {
        origin: slow.url,
        before: noteShifts,
        viewport: { width, height: 720 },
      });
    } finally {
      slow.close();
    }
  });
}

for (const style of STYLES) {
  test(`host/${style}__flower_128x128`, () =>
    visit(async (page) => {
      await page.waitForSelector("html[data-state]", { state: "attached" }); // it listens
      await page.check(`input[value=${style}]`, { force: true });
      await paintFlower(page);
      same(await pixels(page), reference(style), style);
      equal(await page.textContent("#in-style"), style, "the placard");
    }));
}

const slowStyles = process.env.WGNORM_ALL_CASES ? STYLES : STYLES.slice(0, 1);
for (const style of slowStyles) {
  test(`gpu/${style}__flower_128x128`, () =>
    visit(
      async (page) => {
        await painted(page);
        // Memory of one size is given back before that of the next is taken.
        await page.workers()[0].evaluate(() => {
          self.activations = [];
          const { createBuffer } = GPUDevice.prototype;
          const { destroy } = GPUBuffer.prototype;
          const note = (what, { label }) => label === "activations" && self.activations.push(what);
          GPUDevice.prototype.createBuffer = function (descriptor) {
            note("made", descriptor);
            return createBuffer.call(this, descriptor);
          };
          GPUBuffer.prototype.destroy = function () {
            note("gone", this);
            destroy.call(this);
          };
        });
        await paintFlower(page);
        const activations = (await page.workers()[0].evaluate(() => self.activations)).join(" ");
        check(/^(gone ){3,}made( made)+$/.test(activations), `buffers: ${activations}`);
        await page.check(`input[value=${style}]`, { force: true });
        await painted(page);
        same(await pixels(page), reference(style), style);
        equal(await page.getAttribute("html", "data-backend"), "gpu", "back end");
        console.log(`on SwiftShader: ${await page.textContent("#time")}, prepared in ${await page.textContent("#prepared")}`);
      },
      { query: "?backend=gpu" },
    ));
}

test("the_latest_wish_wins", () =>
  visit(async (page) => {
    await painted(page);
    await bring(page, FLOWER, "flower.png");
    for (const style of ["ink", "swirl", "waves"]) await page.check(`input[value=${style}]`, { force: true });
    await page.waitForFunction(() => document.querySelector("#in-style").textContent === "waves");
    await painted(page);
    same(await pixels(page), reference("waves"), "waves");
    await page.waitForTimeout(1000);
    same(await pixels(page), reference("waves"), "a second later");
  }));

test("the_latest_picture_wins", () =>
  visit(async (page) => {
    await painted(page);
    // It takes longer to decode than the flower.
    const large = await made(page, 5000, 5000, "context.fillStyle = '#58a'; context.fillRect(99, 99, 300, 400);");
    await bring(page, large, "large.png");
    await bring(page, FLOWER, "flower.png");
    await page.waitForTimeout(3000);
    await painted(page);
    equal(await page.textContent("#title"), "flower", "what hangs");
    same(await pixels(page), reference("glass"), "the painting");
  }));

test("the_example_comes_while_a_picture_is_read", () => {
  let release;
  const wanted = new Promise((resolve) => (release = resolve));
  const options = fake({});
  return visit(
    async (page) => {
      page.setDefaultTimeout(10_000);
      await state(page, "starting");
      await bring(page, png(12_000, 9000), "large.png");
      release();
      await hangs(page, "large");
      await painted(page);
    },
    {
      ...options,
      before: async (page) => {
        await options.before(page);
        await page.route("**/astronaut.jpg", async (route) => (await wanted, route.continue()));
      },
    },
  );
});

/** Notes from now on for how long the page did not answer. */
const watch = (page) =>
  page.evaluate(() => {
    window.longest = 0;
    let last = performance.now();
    setInterval(() => {
      const now = performance.now();
      [window.longest, last] = [Math.max(window.longest, now - last), now];
    }, 10);
  });

test("the_page_stays_responsive", () =>
  visit(async (page) => {
    await painted(page);
    await watch(page);
    const large = await made(page, 640, 640, "context.fillStyle = '#58a'; context.fillRect(99, 99, 300, 400);");
    await bring(page, large, "large.png");
    await state(page, "painting");
    await painted(page);
    const longest = await page.evaluate(() => window.longest);
    // Two cores are shared with the worker and the test.
    check(longest < 500, `the page did not answer for ${longest} ms`);
  }));

test("the_page_stays_responsive_while_a_large_picture_is_read", () =>
  visit(async (page) => {
    await painted(page);
    await watch(page);
    const wait = says(page, "Reading the picture …");
    await bring(page, png(12_000, 9000), "large.png");
    await wait;
    await hangs(page, "large");
    await painted(page);
    equal(await page.textContent("#size"), "2048 × 1536", "size");
    const longest = await page.evaluate(() => window.longest);
    check(longest < 500, `the page did not answer for ${longest} ms`);
  }, fake({})));

// --- what goes wrong

const LOST = "throw Object.assign(new Error('lost'), { code: 'device-lost' });";
for (const [what, options, ...words] of [
  [
    "lost",
    { open: "if (opened++) Object.assign(painter, { backend: 'host', fallback: 'no-gpu' });", stylize: LOST },
    "The graphics device was lost. The processor goes on, more slowly: the browser gives no other device.",
  ],
  ["lost_again", { stylize: LOST }, "The processor goes on, more slowly: the device was lost again and again."],
  ["broken", { stylize: "throw new Error('trap');" }, "Painting broke off (trap); the processor goes on, more slowly."],
]) {
  const stylize = `if (this.backend === "gpu" && width > 1024) { ${options.stylize} }`;
  test(`the_gpu_is_${what}_and_the_processor_paints_smaller`, () =>
    visit(async (page) => {
      await painted(page);
      await bring(page, png(2600, 650), "panorama.png");
      await hangs(page, "panorama");
      await painted(page);
      const told = await status(page);
      for (const part of [...words, "Scaled from 2600 × 650 to 1024 × 256, the most that the processor paints"]) {
        check(told.includes(part), told);
      }
      check(told.split("The graphics device was lost. It was opened again").length <= 2, `told twice: ${told}`);
      const { width, height, rgba } = await pixels(page);
      equal(`${width}x${height}`, "1024x256", "painting");
      check(rgba[0] < 5, "the painting is not shown");
      equal(await page.textContent("#size"), "1024 × 256", "the placard");
    }, fake({ ...options, stylize })));
}

test("a_picture_that_comes_before_the_gpu_is_open", () =>
  visit(async (page) => {
    await page.waitForSelector("html[data-state=starting]", { state: "attached" });
    await bring(page, png(2600, 650), "panorama.png");
    await hangs(page, "panorama");
    equal(await page.getAttribute("html", "data-backend"), null, "the back end, too early");
    await painted(page);
    equal(await page.textContent("#size"), "2048 × 512", "size");
    check((await status(page)).includes("the most that the GPU paints"), await status(page));
  }, fake({ open: "await new Promise((opened) => setTimeout(opened, 1500));" })));

test("device_lost_in_the_middle", async () => {
  let expected;
  await visit(async (page) => {
    await painted(page);
    expected = await pixels(page);
  });
  await visit(
    async (page) => {
      await underWay(page);
      await page.evaluate(() => window.loseDevice());
      await painted(page);
      const told = await status(page);
      check(/device was lost\. It was opened again/.test(told), `not told: ${told}`);
      equal(await page.getAttribute("html", "data-backend"), "gpu", "back end");
      same(await pixels(page), expected, "after the loss");
    },
    { query: "?backend=gpu&fault=1" },
  );
});

test("device_lost_and_none_comes_back", () =>
  visit(
    async (page) => {
      await underWay(page);
      await page.workers()[0].evaluate(() => (GPU.prototype.requestAdapter = async () => null));
      await page.evaluate(() => window.loseDevice());
      await painted(page);
      const told = await status(page);
      check(/device was lost\. The processor goes on/.test(told), `not told: ${told}`);
      await paintFlower(page);
      same(await pixels(page), reference("glass"), "on the processor");
    },
    { query: "?backend=gpu&fault=1" },
  ));

test("the_gpu_process_dies", () =>
  visit(async (page) => {
    await painted(page);
    await paintFlower(page);
    const photograph = await pixels(page, "photograph");
    const session = await (await browser("software")).newBrowserCDPSession();
    await session.send("Browser.crashGpuProcess").catch(() => {}); // it takes its answer along
    // Canvases are restored a while later.
    await page.waitForTimeout(3000);
    same(await pixels(page), reference("glass"), "the painting");
    check(!differs(await pixels(page, "photograph"), photograph), "the photograph changed");
    await page.check("input[value=ink]", { force: true });
    await page.waitForFunction(() => document.querySelector("#in-style").textContent === "ink");
    await painted(page);
    same(await pixels(page), reference("ink"), "another painting");
  }));

test("the_worker_dies", () =>
  visit(
    async (page) => {
      await painted(page);
      // As after a trap in the module: an error instead of an answer.
      await page.workers()[0].evaluate(() => {
        const fail = () => {
          throw new Error("injected");
        };
        self.postMessage = () => setTimeout(fail);
      });
      await paintFlower(page);
      same(await pixels(page), reference("glass"), "with a new worker");
      check(/Painting broke off \(.*injected\); it was started again/.test(await status(page)), await status(page));
    },
    { allow: /injected/ },
  ));

test("the_worker_does_not_load", () => {
  let asked = 0;
  let broken = true;
  return visit(
    async (page) => {
      await state(page, "failed");
      check((await status(page)).includes("could not be loaded"), await status(page));
      await page.waitForTimeout(1000);
      check(asked < 5, `asked for it ${asked} times`);
      broken = false;
      await page.click("#retry");
      await painted(page);
    },
    {
      before: (page) =>
        page.route("**/worker.js", (route) => {
          asked += 1;
          return broken ? route.fulfill({ status: 404 }) : route.continue();
        }),
      allow: /worker\.js|404/,
    },
  );
});

test("the_module_is_missing", () =>
  visit(
    async (page) => {
      await state(page, "failed");
      check((await status(page)).includes("could not be loaded (404"), await status(page));
      await page.unroute("**/*.wasm");
      await page.click("#retry");
      await painted(page);
    },
    { before: (page) => page.route("**/*.wasm", (route) => route.fulfill({ status: 404 })), allow: /404/ },
  ));

for (const [what, validate, words] of [
  ["is_cut_off", "", "did not arrive whole"],
  ["has_instructions_that_the_browser_lacks", "WebAssembly.validate = () => false;", "A newer one can."],
]) {
  test(`the_module_${what}`, () =>
    visit(
      async (page) => {
        await state(page, "failed");
        check((await status(page)).includes(words), await status(page));
        await page.unroute("**/*.wasm");
        await page.click("#retry");
        await painted(page);
      },
      {
        before: async (page) => {
          await page.route("**/*.wasm", async (route) => {
            const response = await route.fetch();
            await route.fulfill({ response, body: (await response.body()).subarray(0, 9000) });
          });
          await page.route("**/worker.js", async (route) => {
            const response = await route.fetch();
            await route.fulfill({ response, body: (await response.text()) + validate });
          });
        },
      },
    ));
}

test("the_reader_is_missing", () =>
  visit(
    async (page) => {
      await painted(page);
      await paintFlower(page);
      same(await pixels(page), reference("glass"), "read by the page itself");
    },
    { before: (page) => page.route("**/reader.js", (route) => route.fulfill({ status: 404 })), allow: /404|reader\.js/ },
  ));

test("the_program_is_missing", () =>
  visit((page) => says(page, "A part of this page could not be loaded."), {
    before: (page) => page.route("**/studio.js", (route) => route.fulfill({ status: 404 })),
    allow: /404/,
  }));

if (!/^https?:/.test(place)) {
  test("opened_as_a_file", () =>
    visit((page) => says(page, "browsers load its program from a web server only"), {
      origin: pathToFileURL(resolve(place, "index.html")).href,
      allow: /CORS|ERR_FAILED/,
    }));
}

test("the_example_is_missing", () =>
  visit(
    async (page) => {
      await state(page, "failed");
      check((await status(page)).includes("The example picture could not be fetched"), await status(page));
      await page.unroute("**/astronaut.jpg");
      await page.focus("#retry");
      await page.keyboard.press("Enter");
      equal(await focused(page), "status", "the focus, where “Try again” was");
      await painted(page);
      equal(await page.textContent("#title"), "Astronaut", "what hangs");
    },
    { before: (page) => page.route("**/astronaut.jpg", (route) => route.abort()), allow: /ERR_FAILED/ },
  ));

test("without_webgpu", () =>
  visit(
    async (page) => {
      await painted(page);
      const told = await status(page);
      check(told.includes("WebGPU is not available") && told.includes("the processor paints"), told);
      equal(await page.textContent("#adapter"), "none", "adapter");
      await paintFlower(page);
      same(await pixels(page), reference("glass"), "the fallback");
    },
    { kind: "none", query: "" },
  ));

test("without_a_secure_origin", () =>
  visit(
    async (page) => {
      equal(await page.evaluate(() => "gpu" in navigator), false, "navigator.gpu");
      await painted(page);
      check((await status(page)).includes("WebGPU is not available"), await status(page));
      await page.click("#camera");
      await page.waitForFunction(() => document.querySelector("#status").textContent.includes("https"));
    },
    { kind: "insecure", query: "", origin: url.replace("localhost", "page.test") },
  ));

test("a_gpu_is_demanded_and_there_is_none", () =>
  visit(
    async (page) => {
      await state(page, "failed");
      const told = await status(page);
      check(told.includes("No WebGPU device"), told);
      await bring(page, FLOWER, "flower.png");
      await hangs(page, "flower");
      await state(page, "failed");
    },
    { kind: "none", query: "?backend=gpu" },
  ));

test("an_unreadable_file", () =>
  visit(async (page) => {
    await painted(page);
    const before = await pixels(page);
    await bring(page, Buffer.from("no picture"), "holiday.png");
    await state(page, "failed");
    const told = await status(page);
    check(told.includes("“holiday.png” is no picture"), told);
    check(!differs(await pixels(page), before), "the picture on the wall changed");
    equal(await page.textContent("#title"), "Astronaut", "the placard");
    await paintFlower(page);
    same(await pixels(page), reference("glass"), "the next one");
  }));

test("an_unreadable_file_while_another_is_painted", () =>
  visit(async (page) => {
    await painted(page);
    await bring(page, FLOWER, "flower.png");
    await state(page, "painting");
    await bring(page, Buffer.from("no picture"), "holiday.png");
    await says(page, "“holiday.png” is no picture");
    equal(await page.getAttribute("html", "data-state"), "painting", "the painting goes on");
    await painted(page);
    check(/^Painted in .*“holiday\.png” is no picture/.test(await status(page)), await status(page));
    equal(await page.textContent("#title"), "flower", "the placard");
  }, fake({ stylize: "await new Promise((painted) => setTimeout(painted, 1000));" })));

test("an_unreadable_file_before_anything_hangs", () =>
  visit(async (page) => {
    await state(page, "starting");
    await bring(page, Buffer.from("no picture"), "holiday.png");
    await painted(page);
    check((await status(page)).includes("“holiday.png” is no picture"), await status(page));
    equal(await page.textContent("#title"), "Astronaut", "the placard");
  }));

test("heic_has_words_of_its_own", () =>
  visit(async (page) => {
    await painted(page);
    await bring(page, Buffer.from("\0\0\0\x18ftypheic"), "IMG_1.HEIC");
    await says(page, "“IMG_1.HEIC” is a HEIC picture, which this browser cannot read. Save it as a JPEG");
  }, fake({})));

test("a_link_is_caught_and_told", () =>
  visit(async (page) => {
    await painted(page);
    const caught = await page.evaluate(() => {
      const carried = new DataTransfer();
      carried.setData("text/uri-list", "https://example.com/picture.jpg");
      const event = (name) => new DragEvent(name, { dataTransfer: carried, bubbles: true, cancelable: true });
      return ["dragenter", "dragover", "drop"].map((name) => !document.body.dispatchEvent(event(name))).slice(1);
    });
    equal(caught.join(), "true,true", "over the page, dropped: caught");
    check((await status(page)).includes("That was a link or a text, not a picture"), await status(page));
    equal(await page.locator(".drop.over").count(), 0, "the invitation to drop");
  }, fake({})));

test("too_large_is_scaled_and_told", () =>
  visit(async (page) => {
    await painted(page);
    const large = await made(page, 2600, 650, "context.fillStyle = 'teal'; context.fillRect(500, 99, 900, 400);");
    await bring(page, large, "panorama.png");
    await hangs(page, "panorama");
    await painted(page);
    const told = await status(page);
    check(told.includes("Scaled from 2600 × 650 to 1024 × 256"), told);
    const { width, height } = await pixels(page);
    equal(`${width}x${height}`, "1024x256", "painting");
  }));

test("a_file_that_is_cut_off_is_painted_and_told", () =>
  visit(async (page) => {
    await painted(page);
    const draw = "for (let i = 0; i < 400; i++) context.fillRect((i * 37) % 400, i, 9, 9);";
    const film = Buffer.from("as cameras append");
    for (const kind of ["png", "jpeg", "webp"]) {
      const whole = await made(page, 400, 400, draw, `image/${kind}`);
      for (const [what, bytes, cut] of [
        ["whole", whole, false],
        ["long", Buffer.concat([whole, film]), false],
        ["short", whole.subarray(0, whole.length * 0.9), true],
      ]) {
        if (what + kind === "shortwebp") continue; // nothing of it is decoded
        await bring(page, bytes, `${what}-${kind}.${kind}`);
        await hangs(page, `${what}-${kind}`);
        await painted(page);
        equal((await status(page)).includes("The file is cut off"), cut, `${what} ${kind} is told to be cut off`);
      }
    }
    await bring(page, FLOWER.subarray(0, 20), "flower.png");
    await says(page, "“flower.png” is cut off, and too little of it is there to be painted.");
  }, fake({})));

test("jpegs_are_whole_or_cut_off_as_the_program_finds_them", () =>
  visit(async (page) => {
    await painted(page);
    // Restart intervals; several scans, each with restart intervals.
    for (const name of ["restarts.jpg", "progressive.jpg"]) {
      const jpeg = data(name);
      const marks = markers(jpeg);
      // A marker may have any number of 0xff before it, and the last need not be the file's end.
      const filled = marks.slice(1).map((at) => Buffer.concat([jpeg.subarray(0, at), Buffer.alloc(3, 255), jpeg.subarray(at)]));
      const everywhere = marks.map((at, i) => Buffer.concat([Buffer.alloc(i && 2, 255), jpeg.subarray(at, marks[i + 1])]));
      const thumbnail = Buffer.from("ffe1000effd8ffdaffd968657265ffd9", "hex");
      const within = Buffer.concat([jpeg.subarray(0, 2), thumbnail, jpeg.subarray(2)]);
      const whole = [jpeg, ...filled, Buffer.concat(everywhere), within, Buffer.concat([jpeg, Buffer.from("film")])];
      for (const found of await readings(page, whole, name)) equal(found, "45x37", `${name} is whole`);

      const scans = marks.filter((at) => jpeg[at + 1] === 0xda);
      // What looks like an end between two scans is none.
      const between = Buffer.concat([jpeg.subarray(0, scans.at(-1)), thumbnail, jpeg.subarray(scans.at(-1))]);
      const ends = Array.from({ length: jpeg.length }, (_, end) => end).slice(3);
      const cuts = ends.filter((end) => end % 5 === 0 || end + 20 > jpeg.length).map((end) => jpeg.subarray(0, end));
      cuts.push(...[within, between].map((file) => file.subarray(0, file.length - 2)));
      const found = await readings(page, cuts, name);
      const first = found.findIndex((words) => words.startsWith("45x37"));
      for (const [at, words] of found.entries()) {
        const painted = "45x37 The file is cut off; what there is of it is painted.";
        const refused = `“${name}” is cut off, and too little of it is there to be painted.`;
        equal(words, at < first ? refused : painted, `${name} cut after ${cuts[at].length} bytes`);
      }
      const least = cuts[first].length;
      check(first > 0 && least < scans[0] + jpeg.length / 3, `nothing is painted of the first ${least} bytes`);
    }
  }, fake({})));

test("all_of_a_jpeg_that_is_there_is_painted", () =>
  visit(async (page) => {
    await painted(page);
    const draw = "context.fillStyle = 'teal'; for (let i = 0; i < 400; i++) context.fillRect((i * 37) % 400, i, 9, 9);";
    const files = [await made(page, 400, 400, draw, "image/jpeg"), data("restarts.jpg"), data("progressive.jpg")];
    for (const jpeg of files) {
      const parts = [0, 1, 2, jpeg.length >> 1].map((missing) => jpeg.subarray(0, jpeg.length - missing));
      const [whole, ...rest] = await pixelsRead(page, parts);
      for (const [at, words] of ["half its end", "no end", "half of it"].entries()) {
        const same = rest[at].findIndex((value, i) => value !== whole[i]);
        if (at < 2) equal(same, -1, `the first other value of a file with ${words}`);
        else if (jpeg === files[0]) check(same > 0.4 * whole.length, `only ${same} of ${whole.length} values are there`);
      }
    }
  }, fake({})));

/** The pixels that the page reads from each JPEG. */
function pixelsRead(page, files) {
  const read = async (files) => {
    const { read } = await import("./picture.js");
    const found = [];
    for (const file of files) {
      const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt());
      const { pixels } = await read(new File([bytes], "a.jpg", { type: "image/jpeg" }), 1024);
      found.push([...pixels.data]);
    }
    return found;
  };
  return page.evaluate(read, files.map((file) => file.toString("base64")));
}

/** Where a JPEG's markers are. */
function markers(jpeg) {
  const found = [];
  for (let at = 0; at < jpeg.length; ) {
    const isMarker = jpeg[at] === 0xff && jpeg[at + 1] !== 0;
    if (isMarker) found.push(at);
    const isAlone = jpeg[at + 1] >= 0xd0 && jpeg[at + 1] <= 0xd9;
    at += !isMarker ? 1 : isAlone ? 2 : 2 + jpeg.readUInt16BE(at + 2);
  }
  return found;
}

/** What the page makes of each file before anything is painted: its size and its flaw, or why it cannot be read. */
function readings(page, files, name) {
  const read = async ([files, name]) => {
    const { read } = await import("./picture.js");
    const found = [];
    for (const file of files) {
      const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt());
      const picture = read(new File([bytes], name, { type: "image/jpeg" }), 1024);
      const words = ({ width, height, flaw }) => [`${width}x${height}`, flaw].filter(Boolean).join(" ");
      found.push(await picture.then(words, (error) => error.message));
    }
    return found;
  };
  return page.evaluate(read, [files.map((file) => file.toString("base64")), name]);
}

test("more_pixels_than_the_browser_opens", () =>
  visit(async (page) => {
    await painted(page);
    // The size is there, and an end; what is between would take a browser's memory.
    const large = png(8, 8);
    large.writeUInt32BE(33_000, 16);
    large.writeUInt32BE(33_000, 20);
    await bring(page, large, "large.png");
    await says(page, "“large.png” has 33000 × 33000 pixels, more than this browser can open");
  }, fake({})));

test("too_small_is_told", () =>
  visit(async (page) => {
    await painted(page);
    await bring(page, await made(page, 4, 90, ""), "thin.png");
    await state(page, "failed");
    check((await status(page)).includes("4×90 pixels are too few"), await status(page));
  }));

test("a_style_that_does_not_come", () =>
  visit(
    async (page) => {
      await painted(page);
      await paintFlower(page);
      const gone = (route) => route.abort();
      await page.context().route("**/styles/ink.safetensors", gone);
      await page.check("input[value=ink]", { force: true });
      await state(page, "failed");
      check((await status(page)).includes("“ink” could not be fetched"), await status(page));
      check(!differs(await pixels(page), reference("glass")), "the picture on the wall changed");
      await page.context().unroute("**/styles/ink.safetensors", gone);
      await bring(page, Buffer.from("no picture"), "holiday.png");
      await says(page, "“holiday.png” is no picture");
      check((await status(page)).includes("“ink” could not be fetched"), "what “Try again” tries is not told");
      await page.click("#retry");
      await painted(page);
      same(await pixels(page), reference("ink"), "tried again");
    },
    { allow: /ERR_FAILED/ },
  ));

test("a_style_that_is_none", () =>
  visit(async (page) => {
    await painted(page);
    await page.context().route("**/styles/ink.safetensors", (route) => route.fulfill({ body: "no weights" }));
    await page.check("input[value=ink]", { force: true });
    await state(page, "failed");
    const words = "The style “ink” cannot be used: this is a text that begins “no weights”, not a safetensors file";
    check((await status(page)).includes(words), await status(page));
    await page.context().unroute("**/styles/ink.safetensors");
    await page.click("#retry");
    await painted(page);
    equal(await page.textContent("#in-style"), "ink", "tried again");
  }));

test("a_style_that_comes_slowly", () =>
  visit(async (page) => {
    await painted(page);
    await page.context().route("**/styles/ink.safetensors", async (route) => {
      await new Promise((later) => setTimeout(later, 500));
      await route.continue();
    });
    await page.check("input[value=ink]", { force: true });
    await says(page, "Fetching the style “ink” …");
    await painted(page);
    check(!(await status(page)).includes("Fetching"), await status(page));
  }, fake({})));

test("the_style_is_fetched_beside_the_program", () => {
  let release;
  const asked = new Promise((resolve) => (release = resolve));
  return visit(painted, {
    before: async (page) => {
      await page.route("**/styles/glass.safetensors", (route) => (release(), route.continue()));
      await page.route("**/*.wasm", async (route) => (await asked, route.continue()));
    },
  });
});

test("a_style_that_never_comes_holds_nothing_up", () =>
  visit(async (page) => {
    await painted(page);
    let asked = 0;
    await page.context().route("**/styles/ink.safetensors", () => (asked += 1)); // no answer
    await page.check("input[value=ink]", { force: true });
    await says(page, "Fetching the style “ink” …");
    await bring(page, FLOWER, "flower.png");
    await hangs(page, "flower");
    equal(asked, 1, "times the style was asked for, for two pictures");
    page.setDefaultTimeout(3000);
    await page.check("input[value=glass]", { force: true });
    await painted(page);
    equal(await page.textContent("#in-style"), "glass", "the placard");
    await page.context().unroute("**/styles/ink.safetensors");
    await page.check("input[value=ink]", { force: true });
    await painted(page);
    equal(await page.textContent("#in-style"), "ink", "the placard, in the end");
  }, fake({})));

// --- pictures in and out

test("paste", () =>
  visit(async (page) => {
    await painted(page);
    await paintFlower(page, "paste");
    same(await pixels(page), reference("glass"), "pasted");
  }));

test("choose_a_file", () =>
  visit(async (page) => {
    await painted(page);
    const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.click("#choose")]);
    await chooser.setFiles({ name: "flower.png", mimeType: "image/png", buffer: FLOWER });
    await hangs(page, "flower");
    await painted(page);
    same(await pixels(page), reference("glass"), "chosen");
  }));

test("upright_as_exif_says", () =>
  visit(async (page) => {
    await painted(page);
    const jpeg = await made(page, 60, 40, "context.fillStyle = 'red'; context.fillRect(0, 0, 30, 40);", "image/jpeg");
    // Orientation 6: the first row is the right side.
    const exif = Buffer.from("ffe100224578696600004d4d002a00000008000101120003000000010006000000000000", "hex");
    await bring(page, Buffer.concat([jpeg.subarray(0, 2), exif, jpeg.subarray(2)]), "turned.jpg");
    await hangs(page, "turned");
    await painted(page);
    const { width, height, rgba } = await pixels(page, "photograph");
    equal(`${width}x${height}`, "40x60", "size");
    check(rgba[4 * (5 * 40 + 20)] > 200 && rgba[4 * (55 * 40 + 20)] < 50, "red belongs at the top");
  }));

test("transparency_is_laid_on_white", () =>
  visit(async (page) => {
    await painted(page);
    const half = await made(page, 20, 10, "context.fillStyle = 'rgb(0 0 200 / 0.5)'; context.fillRect(0, 0, 10, 10);");
    await bring(page, half, "half.png");
    await hangs(page, "half");
    await painted(page);
    const { rgba } = await pixels(page, "photograph");
    const [r, g, b] = rgba;
    check(Math.abs(r - 127) <= 1 && Math.abs(g - 127) <= 1 && Math.abs(b - 227) <= 1, `half is ${[r, g, b]}`);
    equal(rgba.readUInt32BE(4 * 15), 0xffffffff, "transparent");
  }));

test("drawings_are_drawn_and_fetch_nothing", () =>
  visit(async (page) => {
    await painted(page);
    const asked = [];
    page.on("request", (request) => asked.push(request.url()));
    const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20" width="40" height="20">
      <rect width="20" height="20" fill="#00f"/><image href="${url}secret.png" width="9" height="9"/></svg>`;
    await bring(page, drawing, "drawing.svg");
    await hangs(page, "drawing");
    await painted(page);
    const { width, height, rgba } = await pixels(page, "photograph");
    equal(`${width}x${height}`, "1024x512", "size");
    equal([rgba.readUInt32BE(4 * 500), rgba.readUInt32BE(4 * 524)].join(), [0x0000ffff, 0xffffffff].join(), "colours");
    check(!asked.some((address) => address.includes("secret")), `asked for ${asked}`);
  }, fake({})));

test("a_drawing_of_too_many_parts", () =>
  visit(async (page) => {
    await painted(page);
    // Each level shows the one before four times: with all ten a million parts, which take seconds.
    const level = (_, at) => `<g id="a${at + 1}">${`<use href="#a${at}" x="1"/>`.repeat(4)}</g>`;
    const drawing = (levels) => `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20">
      <defs><rect id="a0" width="9" height="9"/>${Array.from({ length: levels }, level).join("")}</defs>
      <use href="#a${levels}"/></svg>`;
    await bring(page, drawing(3), "few.svg");
    await hangs(page, "few");
    await painted(page);
    await bring(page, drawing(10), "many.svg");
    await says(page, "“many.svg” is too large a drawing for this page");
  }, fake({})));

test("strength_blends_and_download_saves_it", () =>
  visit(async (page) => {
    await painted(page);
    await paintFlower(page);
    const [photograph, whole] = [await pixels(page, "photograph"), await pixels(page)];
    const strength = (value) =>
      page.locator("#strength").evaluate((input, value) => {
        input.value = value;
        input.dispatchEvent(new Event("input", { bubbles: true }));
      }, value);
    await strength(0);
    check(!differs(await pixels(page), photograph), "strength 0 is not the photograph");
    await strength(50);
    const half = await pixels(page);
    for (let at = 0; at < half.rgba.length; at++) {
      const middle = (photograph.rgba[at] + whole.rgba[at]) / 2;
      check(Math.abs(half.rgba[at] - middle) <= 2, `value ${at}: ${half.rgba[at]} is not the middle, ${middle}`);
    }
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
    equal(download.suggestedFilename(), "flower-glass.png", "name");
    const saved = readFileSync(await download.path());
    await strength(100);
    await bring(page, saved, "again.png");
    await hangs(page, "again");
    check(!differs(await pixels(page, "photograph"), half), "the file is not what was shown");
  }));

test("the_download_is_named_after_what_hangs", () =>
  visit(
    async (page) => {
      await painted(page);
      await page.check("input[value=ink]", { force: true });
      await state(page, "failed");
      equal(await page.textContent("#in-style"), "glass", "the placard");
      const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
      equal(download.suggestedFilename(), "Astronaut-glass.png", "name");
    },
    { before: (page) => page.route("**/ink.safetensors", (route) => route.abort()), allow: /ink|ERR_FAILED/ },
  ));

test("before_and_after", () =>
  visit(async (page) => {
    await painted(page);
    const split = page.locator("#split");
    const shown = () => page.locator("#photograph").evaluate((canvas) => getComputedStyle(canvas).clipPath);
    const resting = await shown();
    await split.focus();
    await page.keyboard.press("ArrowRight");
    check((await shown()) !== resting, "an arrow key does not move the divider");
    await page.keyboard.press("End");
    equal(await shown(), "none", "the whole photograph");
    await page.keyboard.press("Home");
    equal(await page.locator("#photograph").isVisible(), false, "the photograph, at the far left");
  }));

// --- the camera

test("camera_live_and_taken", () =>
  visit(
    async (page) => {
      await painted(page);
      await page.click("#camera");
      await state(page, "live");
      // A name that changes and a pressed state as well would say "Stop camera, pressed".
      equal(await page.getByRole("button", { name: "Stop camera", pressed: false }).count(), 1, "the camera's button");
      await page.waitForFunction(() => /\d+\.\d frames per second/.test(document.querySelector("#fps").textContent));
      console.log(`camera: ${await page.textContent("#fps")}, ${await page.textContent("#size")}, the processor`);
      await page.check("input[value=swirl]", { force: true });
      await page.waitForFunction(() => document.querySelector("#in-style").textContent === "swirl");
      await page.click("#snap");
      await hangs(page, "Snapshot");
      await painted(page);
      const { width } = await pixels(page);
      check(width >= 640, `taken ${width} pixels wide`);
      equal(await page.locator("#snap").isVisible(), false, "the button to take one");
      equal(await page.evaluate(() => document.querySelector("#video").srcObject), null, "the camera");
    },
    { kind: "camera", permissions: ["camera"] },
  ));

test("camera_closed_while_the_browser_asks", () =>
  visit(
    async (page) => {
      await painted(page);
      await page.evaluate(() => {
        window.streams = [];
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => {
          await new Promise((asked) => setTimeout(asked, 500));
          const stream = await ask(wanted);
          window.streams.push(stream);
          return stream;
        };
      });
      await page.click("#camera");
      await page.click("#camera");
      await page.waitForFunction(() => window.streams.length === 1);
      await page.waitForTimeout(500);
      const states = () => page.evaluate(() => window.streams.map((stream) => stream.getTracks()[0].readyState).join());
      equal(await states(), "ended", "the stream");
      equal(await page.getAttribute("html", "data-state"), "painted", "the page");
      await page.click("#camera");
      await state(page, "live");
      await page.click("#camera");
      await state(page, "painted");
      equal(await states(), "ended,ended", "the streams");
      const [hung, named] = [await pixels(page, "photograph"), await page.textContent("#title")];
      await page.check("input[value=ink]", { force: true });
      await page.waitForFunction(() => document.querySelector("#in-style").textContent === "ink");
      await painted(page);
      check(!differs(await pixels(page, "photograph"), hung), "another picture was painted than the one that hangs");
      equal(await page.textContent("#title"), named, "the placard");
    },
    { kind: "camera", permissions: ["camera"] },
  ));

test("camera_and_a_style_that_never_comes", () =>
  visit(
    async (page) => {
      await painted(page);
      await page.click("#camera");
      await state(page, "live");
      await page.context().route("**/styles/ink.safetensors", () => {}); // no answer
      page.setDefaultTimeout(3000);
      const asked = page.waitForRequest("**/styles/ink.safetensors");
      await page.check("input[value=ink]", { force: true });
      await asked;
      await page.check("input[value=glass]", { force: true });
      await page.evaluate(() => (document.querySelector("#time").textContent = ""));
      await page.waitForFunction(() => document.querySelector("#time").textContent);
      await page.check("input[value=ink]", { force: true });
      await page.waitForTimeout(200);
      await page.click("#camera");
      await state(page, "painted");
    },
    { ...fake({}), kind: "camera", query: "?backend=gpu", permissions: ["camera"] },
  ));

test("camera_and_files", () =>
  visit(
    async (page) => {
      await painted(page);
      await page.click("#camera");
      await state(page, "live");
      await bring(page, Buffer.from("no picture"), "holiday.png");
      await says(page, "“holiday.png” is no picture");
      const filming = () => page.evaluate(() => document.querySelector("#video").srcObject !== null);
      equal(await page.getAttribute("html", "data-state"), "live", "the page");
      check(await filming(), "a file that is no picture ended the camera");
      await paintFlower(page);
      check(!(await filming()), "a picture did not end the camera");
    },
    { ...fake({}), kind: "camera", permissions: ["camera"] },
  ));

test("camera_and_a_device_that_is_lost", () =>
  visit(
    async (page) => {
      await painted(page);
      await page.click("#camera");
      await state(page, "live");
      page.setDefaultTimeout(3000);
      await says(page, "The graphics device was lost. It was opened again and went on.");
      equal(await page.getAttribute("html", "data-state"), "live", "the page");
    },
    {
      ...fake({ stylize: `self.frames = (self.frames ?? 0) + 1; if (self.frames === 5) { ${LOST} }` }),
      kind: "camera",
      permissions: ["camera"],
    },
  ));

for (const [what, kind, words] of [
  ["refused", "shy", "The camera was not allowed"],
  ["missing", "software", "No camera was found"],
]) {
  test(`camera_${what}`, () =>
    visit(
      async (page) => {
        await painted(page);
        const before = await pixels(page);
        await page.click("#camera");
        await state(page, "failed");
        check((await status(page)).includes(words), await status(page));
        check(!differs(await pixels(page), before), "the picture on the wall changed");
      },
      { kind },
    ));
}

// --- the page itself

test("keyboard", () =>
  visit(async (page) => {
    await painted(page);
    const reached = [];
    for (let i = 0; i < 9; i++) {
      await page.keyboard.press("Tab");
      const [name, ringed] = await page.evaluate(() => {
        const element = document.activeElement;
        const dressed = element.name === "style" ? element.nextElementSibling : element;
        const ring = ({ outline, boxShadow } = getComputedStyle(dressed)) => outline + boxShadow;
        const focused = ring();
        element.blur(); // the next Tab goes on from here all the same
        return [element.id || element.name || element.localName, focused !== ring()];
      });
      check(name === "body" || ringed, `${name} shows no focus`);
      reached.push(name);
    }
    equal(reached.join(" "), "split style strength choose camera download summary a body", "order");
    await page.focus("input[value=glass]");
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction(() => document.querySelector("#in-style").textContent === "ink");
    await painted(page);
    await page.focus("summary");
    await page.keyboard.press("Enter");
    check(await page.locator("#stages").isVisible(), "the milliseconds do not open");
  }));

for (const scale of [100, 200]) {
  test(`nothing_is_cut_off_at_360_pixels_with_text_at_${scale}_percent`, () =>
    visit(
      async (page) => {
        await painted(page);
        const cut = await page.evaluate((scale) => {
          document.documentElement.style.fontSize = `${scale}%`;
          document.querySelector("details").open = true;
          document.querySelector("#retry").hidden = false;
          const beyond = (element) => element.getBoundingClientRect().right > 360 || element.scrollWidth > 360;
          const wide = [...document.querySelectorAll("body *")].filter(beyond);
          // A style's name that is wider than its picture would run into the next.
          const spans = [...document.querySelectorAll(".styles span")];
          const names = spans.filter((span) => span.offsetWidth > span.parentElement.offsetWidth);
          // Values need a few letters a line.
          const narrow = [...document.querySelectorAll("dd")].filter((value) => value.offsetWidth < 80);
          return [...wide, ...names, ...narrow].map((element) => element.id || element.className || element.outerHTML);
        }, scale);
        equal(cut.join(" "), "", "cut off");
      },
      { ...fake({}), viewport: { width: 360, height: 740 } },
    ));
}

for (const [width, height] of [[5, 1000], [1000, 5]]) {
  test(`a_picture_of_${width}x${height}_hangs_well`, () =>
    visit(async (page) => {
      await painted(page);
      await bring(page, png(width, height), "strip.png");
      await hangs(page, "strip");
      await painted(page);
      for (const viewport of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
        await page.setViewportSize(viewport);
        const box = (selector) => page.locator(selector).boundingBox();
        const [frame, before, after] = await Promise.all([".frame", ".tag.before", ".tag.after"].map(box));
        for (const [name, tag] of Object.entries({ before, after })) {
          const inside =
            tag.x >= frame.x && tag.x + tag.width <= frame.x + frame.width && tag.y + tag.height <= frame.y + frame.height;
          check(inside, `the tag ${name} leaves the frame of ${frame.width} x ${frame.height}`);
        }
        const divider = await box(".divider");
        const crosses = width > height || Math.abs(divider.x - frame.x - frame.width / 2) < 4;
        check(crosses, `the divider, at ${divider.x - frame.x} of ${frame.width}, is beside the picture`);
        const apart = before.x + before.width <= after.x || before.y + before.height <= after.y;
        check(apart, `the tags overlap in ${frame.width} x ${frame.height}`);
        check(frame.x >= 0 && frame.x + frame.width <= viewport.width, "the frame is wider than the page");
      }
    }, fake({})));
}

test("the_focus_is_kept", () =>
  visit(async (page) => {
    await painted(page);
    for (const lost of ["download", "split"]) {
      await page.focus(`#${lost}`);
      await bring(page, FLOWER, `${lost}.png`, "paste");
      await hangs(page, lost);
      equal(await focused(page), "choose", `the focus, which ${lost} had`);
      await painted(page);
    }
  }, fake({})));

test("progress_is_there_while_there_is_some", () =>
  visit(async (page) => {
    await painted(page);
    equal(await page.getByRole("progressbar").count(), 0, "at rest");
    await bring(page, FLOWER, "flower.png");
    await state(page, "painting");
    equal(await page.getByRole("progressbar").count(), 1, "while it paints");
  }, fake({ stylize: "await new Promise((painted) => setTimeout(painted, 300));" })));

for (const colorScheme of ["light", "dark"]) {
  test(`contrasts_${colorScheme}`, () =>
    visit(
      async (page) => {
        await painted(page);
        const weak = await page.evaluate(() => {
          const style = (selector) => getComputedStyle(document.querySelector(selector));
          const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
          const over = ([r, g, b, alpha = 1], below) =>
            [r, g, b].map((value, at) => alpha * value + (1 - alpha) * below[at]);
          const linear = (value) => (value <= 10 ? value / 3295 : ((value / 255 + 0.055) / 1.055) ** 2.4);
          const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) + 0.05;
          const contrast = (a, b) => Math.max(light(a) / light(b), light(b) / light(a));
          const [wall, card] = ["html", ".placard"].map((selector) => parse(style(selector).backgroundColor));
          const white = [255, 255, 255];
          const text = (selector) => parse(style(selector).color);
          const tag = over(parse(style(".tag").backgroundColor), white);
          const edge = parse(style("#camera").borderTopColor);
          const found = {
            "tag on a white picture": [contrast(text(".tag"), tag), 4.5],
            status: [contrast(text("#status"), wall), 4.5],
            hint: [contrast(text(".hint"), wall), 4.5],
            footer: [contrast(text("footer"), wall), 4.5],
            "chosen style": [contrast(text("input:checked ~ span"), wall), 4.5],
            placard: [contrast(text("dt"), card), 4.5],
            "main button": [contrast(text("#choose"), parse(style("#choose").backgroundColor)), 4.5],
            "button's edge on the wall": [contrast(edge, wall), 3],
            "button's edge around it": [contrast(edge, parse(style("#camera").backgroundColor)), 3],
          };
          const short = Object.entries(found).filter(([, [is, least]]) => is < least);
          return short.map(([what, [is, least]]) => `${what}: ${is.toFixed(2)} of ${least}`).join("; ");
        });
        equal(weak, "", "too little contrast");
      },
      { ...fake({}), colorScheme },
    ));
}

test("at_most_400_kB_without_weights", async () => {
  const asked = new Set();
  const before = (page) => page.on("request", (request) => request.url().startsWith(url) && asked.add(request.url()));
  await visit(painted, { before });
  check([...asked].some((address) => address.endsWith(".wasm")), "the module was not seen");
  let sum = 0;
  for (const address of asked) {
    if (address.includes("/styles/")) continue;
    const body = Buffer.from(await (await fetch(address)).arrayBuffer());
    const size = gzipSync(body, { level: 9 }).length;
    sum += size;
    console.log(`${String(size).padStart(7)} ${new URL(address).pathname}`);
  }
  console.log(`${String(sum).padStart(7)} bytes, gzipped`);
  check(sum <= 400_000, `${sum} bytes`);
});

const SCREENS = {
  "desktop-light": { viewport: { width: 1280, height: 800 }, colorScheme: "light" },
  "desktop-dark": { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
  "phone-light": { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, colorScheme: "light" },
  "phone-dark": { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, colorScheme: "dark" },
};
if (screenshots) {
  mkdirSync(screenshots, { recursive: true });
  for (const [name, options] of Object.entries(SCREENS)) {
    test(`screenshot/${name}`, () =>
      visit(
        async (page) => {
          await painted(page);
          const path = join(screenshots, `${name}.png`);
          await page.screenshot({ path, fullPage: name.startsWith("phone") });
        },
        { query: "", ...options },
      ));
  }
}

// --- as cargo's

const chosen = tests.filter(({ name }) => name.includes(only));
console.log(`\nrunning ${chosen.length} tests`);
const failures = [];
for (const { name, run } of chosen) {
  try {
    await run();
    console.log(`test ${name} ... ok`);
  } catch (error) {
    failures.push(name);
    console.log(`test ${name} ... FAILED\n    ${error.message.split("\n").join("\n    ")}`);
  }
}
await closeAll();
close();
const verdict = failures.length ? "FAILED" : "ok";
console.log(
  `\ntest result: ${verdict}. ${chosen.length - failures.length} passed; ${failures.length} failed; 0 ignored`,
);
process.exitCode = failures.length ? 1 : 0;
