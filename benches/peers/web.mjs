// Times wgnorm, ONNX Runtime Web and TensorFlow.js in headless Chromium: a JSON line per peer and shape.
//
// NODE_DIR=(with node_modules) MODELS=(with in_*.onnx) WEB_NORM=(made by examples/web.sh) node web.mjs \
//   wgnorm-webgpu wgnorm-wasm ort-wasm:1 ort-wasm:2 ort-webgpu tfjs-wasm tfjs-webgpu
//
// WebGPU runs on SwiftShader unless WEBGPU_ADAPTER=default. Files are served on loopback only.
import fs from 'fs';
import http from 'http';
import path from 'path';
import { createRequire } from 'module';
import { fileURLToPath } from 'url';

const here = path.dirname(fileURLToPath(import.meta.url));
const nodeDir = path.resolve(process.env.NODE_DIR || '.');
const mounts = {
  '/modules/': path.join(nodeDir, 'node_modules'), '/models/': path.resolve(process.env.MODELS || '.'),
  '/web_norm/': path.resolve(process.env.WEB_NORM || '.'),
};
const shapes = JSON.parse(fs.readFileSync(path.join(here, 'shapes.json'))).planes;
const adapter = process.env.WEBGPU_ADAPTER || 'swiftshader';
const settings = { budget: 1e3 * (process.env.BUDGET_S || 1), rotated: 1e6 * (process.env.ROTATE_MB || 192), gpu: `webgpu: ${adapter}` };
const shapeLimit = 1e3 * (process.env.SHAPE_LIMIT_S || 90);
const { chromium } = createRequire(path.join(nodeDir, 'package.json'))('playwright-core');

const types = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.wasm': 'application/wasm' };
const server = http.createServer((request, response) => {
  // Threads in wasm need an isolated page.
  response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
  response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
  const [url] = decodeURIComponent(request.url).split('?');
  const mount = Object.keys(mounts).find(mount => url.startsWith(mount));
  const file = mount && path.join(mounts[mount], url.slice(mount.length));
  if (file && fs.existsSync(file)) {
    response.setHeader('content-type', types[path.extname(file)] || 'application/octet-stream');
    fs.createReadStream(file).pipe(response);
  } else {
    response.setHeader('content-type', 'text/html');
    response.statusCode = url === '/' ? 200 : 404;
    response.end();
  }
}).listen(0, '127.0.0.1');
await new Promise(ready => server.on('listening', ready));
const base = `http://127.0.0.1:${server.address().port}/`;

// Runs in the page.
function page(settings) {
  const EPS = 1e-5, CHAIN = 5;
  const size = shape => shape.reduce((a, b) => a * b);
  const count = (shape, most) => Math.min(most, Math.max(3, Math.floor(settings.rotated / (4 * size(shape)))));
  const median = times => times[times.length >> 1];
  const affine = channels => {
    const between = (a, b) => Float32Array.from({ length: channels }, (_, i) => a + (b - a) * i / Math.max(channels - 1, 1));
    return [between(0.5, 1.5), between(-1, 1)];
  };
  const values = shape => {
    let state = 12345;
    return Float32Array.from({ length: size(shape) }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state >>> 8) / 2 ** 24 * 4 - 1.5;
    });
  };
  const check = (x, y, [samples, channels, height, width]) => {
    const area = height * width, [weight, bias] = affine(channels);
    for (const plane of [0, samples * channels - 1]) {
      const xs = x.subarray(plane * area, (plane + 1) * area), channel = plane % channels;
      const mean = xs.reduce((a, b) => a + b, 0) / area;
      const scale = weight[channel] / Math.sqrt(xs.reduce((a, b) => a + (b - mean) ** 2, 0) / area + EPS);
      const off = xs.reduce((most, v, i) => Math.max(most, Math.abs((v - mean) * scale + bias[channel] - y[plane * area + i])), 0);
      if (!(off < 1e-2)) throw new Error(`wrong by ${off}`);
    }
  };
  // Milliseconds of call(turn), sorted; what it returns is cleaned up untimed.
  const timed = async call => {
    const times = [];
    let started;
    for (let turn = 0; times.length < 5 || performance.now() - started < settings.budget; turn++) {
      const start = performance.now();
      const clean = await call(turn);
      if (started !== undefined) times.push(performance.now() - start);
      else if (turn === 2) started = performance.now();
      clean?.();
    }
    return times.sort((a, b) => a - b);
  };
  const line = (about, shape, rotated, times) => ({
    ...about, op: 'in_fwd', shape, dtype: 'f32', layout: 'nchw', ms_median: median(times), ms_min: times[0], rotated, reps: times.length,
  });

  let ort, tf;
  const session = async (bundle, threads, shape, layers, options) => {
    ort ??= await import(`/modules/onnxruntime-web/dist/${bundle}`);
    ort.env.wasm.wasmPaths = '/modules/onnxruntime-web/dist/';
    ort.env.wasm.numThreads = threads;
    return ort.InferenceSession.create(`/models/in_${shape.join('_')}_${layers}.onnx`, options);
  };
  const about = device => ({ peer: 'ONNX Runtime Web', version: ort.env.versions.web ?? ort.env.versions.common, device });

  // From and to JavaScript's arrays: the copies in and out, on WebGPU the upload and the readback, are in its times.
  const wgnorm = async (shape, backend, device) => {
    const { default: init, InstanceNorm } = await import('/web_norm/pkg/web_norm.js');
    await init();
    const norm = await InstanceNorm.open(shape[1], EPS, backend), [weight, bias] = affine(shape[1]);
    norm.setWeight(weight);
    norm.setBias(bias);
    const data = values(shape), xs = Array.from({ length: count(shape, 4) }, () => data.slice());
    check(data, await norm.forward(xs[0], shape), shape);
    const times = await timed(async turn => { await norm.forward(xs[turn % xs.length], shape); });
    norm.free();
    return [line({ peer: 'wgnorm in JavaScript', version: '0.1.0', device, scope: 'end-to-end' }, shape, xs.length, times)];
  };
  const jobs = {
    'wgnorm-webgpu': shape => wgnorm(shape, 'gpu', settings.gpu),
    'wgnorm-wasm': shape => wgnorm(shape, 'host', 'wasm-1t'),
    // Data stay in GPU buffers.
    async 'ort-webgpu'(shape) {
      const options = { executionProviders: ['webgpu'], preferredOutputLocation: 'gpu-buffer' };
      const run = await session('ort.bundle.min.mjs', 1, shape, 1, options);
      const device = await ort.env.webgpu.device, data = values(shape);
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
      const buffers = Array.from({ length: count(shape, 48) }, () => device.createBuffer({ size: data.byteLength, usage }));
      buffers.forEach(buffer => device.queue.writeBuffer(buffer, 0, data));
      const xs = buffers.map(buffer => ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: shape }));
      check(data, await (await run.run({ x: xs[0] })).y.getData(true), shape);
      const times = await timed(async turn => {
        const { y } = await run.run({ x: xs[turn % xs.length] });
        await device.queue.onSubmittedWorkDone();
        return () => y.dispose();
      });
      return [line({ ...about(settings.gpu), scope: 'device-only' }, shape, xs.length, times)];
    },
    // Data are copied into the wasm heap and out of it: a layer's time is also the slope between two lengths of chains.
    async 'ort-wasm'(shape, threads) {
      const data = values(shape), copies = Array.from({ length: count(shape, 4) }, () => data.slice());
      const medians = [], lines = [];
      for (const layers of [1, CHAIN]) {
        const run = await session('ort.wasm.bundle.min.mjs', threads, shape, layers, { executionProviders: ['wasm'] });
        const xs = copies.map(copy => new ort.Tensor('float32', copy, shape));
        if (layers === 1) check(data, await (await run.run({ x: xs[0] })).y.getData(), shape);
        const times = await timed(async turn => { await run.run({ x: xs[turn % xs.length] }); });
        medians.push(median(times));
        const device = about(`wasm-${threads}t`);
        if (layers === 1) lines.push(line({ ...device, scope: 'end-to-end' }, shape, xs.length, times));
        else lines.push(line({ ...device, scope: 'slope' }, shape, 1, [(medians[1] - medians[0]) / (CHAIN - 1)]));
        await run.release();
      }
      if (!(lines[1].ms_median > 0)) lines.pop();
      return lines;
    },
    'tfjs-webgpu': shape => tfjs(shape, 'webgpu', settings.gpu),
    'tfjs-wasm': shape => tfjs(shape, 'wasm', 'wasm-2t'),
  };
  // There is no instance norm: moments over the plane, then an affine map of them.
  const tfjs = async (shape, backend, device) => {
    if (!tf) {
      for (const source of ['tfjs/dist/tf.min.js', `tfjs-backend-${backend}/dist/tf-backend-${backend}.min.js`]) {
        const script = Object.assign(document.createElement('script'), { src: `/modules/@tensorflow/${source}` });
        await new Promise((loaded, failed) => { script.onload = loaded; script.onerror = failed; document.head.append(script); });
      }
      tf = globalThis.tf;
      if (backend === 'wasm') {
        tf.wasm.setWasmPaths('/modules/@tensorflow/tfjs-backend-wasm/dist/');
        tf.wasm.setThreadsCount(2);
      }
      await tf.setBackend(backend);
      await tf.ready();
    }
    const data = values(shape);
    const [weight, bias] = affine(shape[1]).map(p => tf.tensor(p, [1, shape[1], 1, 1]));
    const norm = x => tf.tidy(() => {
      const { mean, variance } = tf.moments(x, [2, 3], true);
      return x.sub(mean).mul(variance.add(EPS).rsqrt().mul(weight)).add(bias);
    });
    // Reading one element back waits for all of it.
    const wait = async y => { const one = tf.slice(y, [0, 0, 0, 0], [1, 1, 1, 1]); await one.data(); one.dispose(); };
    const xs = [];
    for (let i = 0; i < count(shape, backend === 'wasm' ? 6 : 48); i++) {
      xs.push(tf.tidy(() => tf.add(tf.tensor(data, shape), 0)));
      await wait(xs[i]);
    }
    const first = norm(xs[0]);
    check(data, await first.data(), shape);
    first.dispose();
    const times = await timed(async turn => {
      const y = norm(xs[turn % xs.length]);
      await wait(y);
      return () => y.dispose();
    });
    [...xs, weight, bias].forEach(tensor => tensor.dispose());
    return [line({ peer: 'TensorFlow.js', version: tf.version.tfjs, device, scope: 'device-only' }, shape, xs.length, times)];
  };
  globalThis.job = (name, shape, option) => jobs[name](shape, option);
}

const inPath = name => (process.env.PATH || '').split(':').map(folder => path.join(folder, name));
const executablePath = process.env.CHROMIUM || ['chromium', 'chromium-browser', 'google-chrome'].flatMap(inPath).find(fs.existsSync);
const args = ['--no-sandbox', '--enable-unsafe-webgpu', '--enable-features=Vulkan', '--disable-background-networking',
  ...(adapter === 'default' ? [] : [`--use-webgpu-adapter=${adapter}`])];
for (const wanted of process.argv.slice(2)) {
  const [job, threads] = wanted.split(':');
  let browser, tab;
  const open = async () => {
    await browser?.close().catch(() => {});
    browser = await chromium.launch({ executablePath, headless: true, args });
    tab = await browser.newPage();
    await tab.goto(base);
    await tab.evaluate(page, settings);
  };
  await open();
  for (const shape of shapes) {
    const limit = new Promise((_, late) => setTimeout(late, shapeLimit, new Error(`more than ${shapeLimit / 1e3} s`)).unref());
    try {
      const run = tab.evaluate(([job, shape, threads]) => globalThis.job(job, shape, threads), [job, shape, +threads]);
      for (const line of await Promise.race([run, limit])) console.log(JSON.stringify({ ...line, chromium: browser.version() }));
    } catch (error) {
      const failed = String(error.message).split('\n')[0].slice(0, 300);
      console.log(JSON.stringify({ peer: job, device: threads ? `${threads}t` : adapter, op: 'in_fwd', shape, failed }));
      await open();
    }
  }
  await browser.close();
}
server.close();
