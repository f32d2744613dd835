#!/usr/bin/env python3
"""Times PyTorch, ONNX Runtime, OpenVINO and ncnn: a JSON line per operation and shape.

peers.py torch|ort|openvino|ncnn [--threads N] [--vulkan]
peers.py models --to FOLDER    writes the ONNX models that the browser's peers run

Environment: BUDGET_S (seconds per measurement), ROTATE_MB (bytes of distinct inputs). Every answer is
checked against float64 before it is timed."""
import argparse
import json
import os
import tempfile
import time

import numpy as np

SHAPES = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "shapes.json")))
BUDGET = float(os.environ.get("BUDGET_S", "1"))
ROTATED = float(os.environ.get("ROTATE_MB", "192")) * 1e6
EPS = 1e-5
CHAIN = 5  # layers behind each other, to tell a layer's time from that of the call around it


class Peer:
    def __init__(self, name, version, device):
        self.about = dict(peer=name, version=version, device=device)

    def line(self, op, shape, times, rotated, peer=None, scope="device-only"):
        times = sorted(times)
        line = dict(self.about, op=op, shape=shape, dtype="f32", layout="nchw" if len(shape) == 4 else "rows",
                    ms_median=times[len(times) // 2], ms_min=times[0], scope=scope, rotated=rotated,
                    reps=len(times))
        print(json.dumps(dict(line, peer=peer or line["peer"])), flush=True)

    def try_each(self, shapes, op, measure):
        for shape in shapes:
            try:
                measure(shape)
            except Exception as error:  # a peer that cannot do a shape is a result too
                print(json.dumps(dict(self.about, op=op, shape=shape, failed=str(error)[:300])), flush=True)


def timed(call, count, prepare=lambda i: ()):
    """Milliseconds of call(i, *prepare(i)); only the call is timed. Results live until their turn comes again, so that
    outputs rotate as inputs do, also those that a peer allocates."""
    times, started, turn = [], None, 0
    results = [None] * count
    while started is None or len(times) < 5 or time.perf_counter() - started < BUDGET:
        i = turn % count
        made = prepare(i)
        results[i] = None
        start = time.perf_counter()
        results[i] = call(i, *made)
        ms = (time.perf_counter() - start) * 1e3
        del made
        turn += 1
        if started is not None:
            times.append(ms)
        elif turn >= max(3, count):  # warm
            started = time.perf_counter()
    return times


def inputs(shape, seed=0):
    """Distinct tensors of the same values."""
    count = int(min(48, max(3, ROTATED // (4 * np.prod(shape)))))
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * 2 + 0.5
    return [values.copy() for _ in range(count)]


def affine(channels):
    return (np.linspace(0.5, 1.5, channels, dtype=np.float32), np.linspace(-1, 1, channels, dtype=np.float32))


def check(y, x, axes=(2, 3)):
    """That y is x, normalized over the axes, times weight plus bias of the second axis."""
    weight, bias = (p.reshape((-1,) + (1,) * (x.ndim - 2)) for p in affine(x.shape[1]))
    x = x.astype(np.float64)
    deviation = np.sqrt(x.var(axes, keepdims=True) + EPS)
    off = np.abs((x - x.mean(axes, keepdims=True)) / deviation * weight + bias - np.asarray(y).reshape(x.shape)).max()
    if not off < 1e-2:
        raise RuntimeError(f"wrong by {off}")


def torch_peer(threads):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    peer = Peer("PyTorch", torch.__version__, f"cpu-{threads}t")

    def groups(channels):  # as many as divide the channels, 32 at most
        return max(g for g in range(1, 33) if channels % g == 0)

    def planes(shape):
        arrays = inputs(shape)
        xs = [torch.from_numpy(x) for x in arrays]
        channels = shape[1]
        w, b = map(torch.from_numpy, affine(channels))
        mean, var = torch.zeros(channels), torch.ones(channels)
        forward = [
            ("in_fwd", None, lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=EPS), (2, 3)),
            ("in_fwd", "PyTorch group_norm", lambda x, w, b: F.group_norm(x, channels, w, b, EPS), (2, 3)),
            ("bn_train_fwd", None, lambda x, w, b: F.batch_norm(x, mean, var, w, b, True, 0.1, EPS), (0, 2, 3)),
            ("bn_eval_fwd", None, lambda x, w, b: F.batch_norm(x, mean, var, w, b, False, 0.1, EPS), None),
            ("gn_fwd", None, lambda x, w, b: F.group_norm(x, groups(channels), w, b, EPS), None),
        ]
        with torch.no_grad():
            for op, name, f, axes in forward:
                if axes:
                    check(f(xs[0], w, b).numpy(), arrays[0], axes)
                peer.line(op, shape, timed(lambda i: f(xs[i], w, b), len(xs)), len(xs), name)
        backward(shape, [("in_bwd", *forward[0][1:3]), ("in_bwd", *forward[1][1:3]), ("bn_train_bwd", *forward[2][1:3]),
                         ("gn_bwd", *forward[4][1:3])], xs, w, b)

    def rows(shape):
        arrays = inputs(shape)
        xs = [torch.from_numpy(x) for x in arrays]
        size = shape[1:]
        w, b = map(torch.from_numpy, affine(*size))
        with torch.no_grad():
            layer_norm = lambda x, w, b: F.layer_norm(x, size, w, b, EPS)
            check(layer_norm(xs[0], w, b).numpy(), arrays[0], (1,))
            peer.line("ln_fwd_rows", shape, timed(lambda i: layer_norm(xs[i], w, b), len(xs)), len(xs))
            peer.line("rms_fwd", shape, timed(lambda i: F.rms_norm(xs[i], size, w, EPS), len(xs)), len(xs))
        backward(shape, [("ln_bwd_rows", None, layer_norm)], xs, w, b)

    def backward(shape, ops, xs, w, b):
        dys = [torch.from_numpy(dy) for dy in inputs(shape, 1)]

        def recorded(f):
            def prepare(i):
                leaves = [t.detach().requires_grad_(True) for t in (xs[i], w, b)]
                return f(*leaves), leaves
            return prepare

        for op, name, f in ops:
            times = timed(lambda i, y, leaves: torch.autograd.grad(y, leaves, dys[i]), len(xs), recorded(f))
            peer.line(op, shape, times, len(xs), name)

    peer.try_each(SHAPES["planes"], "in_fwd", planes)
    peer.try_each(SHAPES["rows"], "ln_fwd_rows", rows)


def onnx_model(shape, layers):
    from onnx import TensorProto, helper, numpy_helper

    names = ["x", *(f"t{i}" for i in range(1, layers)), "y"]
    nodes = [helper.make_node("InstanceNormalization", [a, "w", "b"], [b], epsilon=EPS)
             for a, b in zip(names, names[1:])]
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    params = [numpy_helper.from_array(values, name) for values, name in zip(affine(shape[1]), "wb")]
    graph = helper.make_graph(nodes, "instance_norm", [value("x")], [value("y")], params)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def ort_peer(threads):
    import onnxruntime as ort

    peer = Peer("ONNX Runtime", ort.__version__, f"cpu-{threads}t")

    def measure(shape):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = ort.InferenceSession(onnx_model(shape, 1), options, providers=["CPUExecutionProvider"])
        xs = inputs(shape)
        outputs = [ort.OrtValue.ortvalue_from_numpy(np.empty(shape, np.float32)) for _ in xs]

        def bound(x, y):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
            binding.bind_ortvalue_output("y", y)
            return binding

        bindings = [bound(x, y) for x, y in zip(xs, outputs)]
        session.run_with_iobinding(bindings[0])
        check(outputs[0].numpy(), xs[0])
        peer.line("in_fwd", shape, timed(lambda i: session.run_with_iobinding(bindings[i]), len(xs)), len(xs))

    peer.try_each(SHAPES["planes"], "in_fwd", measure)


def openvino_peer(threads):
    import openvino as ov
    from openvino import opset13 as op

    peer = Peer("OpenVINO", ov.__version__.split("-")[0], f"cpu-{threads}t")

    def measure(shape):
        w, b = (op.constant(p.reshape(1, -1, 1, 1)) for p in affine(shape[1]))
        x = op.parameter(shape, np.float32)
        y = op.mvn(x, op.constant(np.array([2, 3], np.int64)), True, EPS, "INSIDE_SQRT") * w + b
        model = ov.Core().compile_model(ov.Model([y], [x]), "CPU", {
            "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1})
        request = model.create_infer_request()
        xs = inputs(shape)
        ys = [np.empty(shape, np.float32) for _ in xs]
        tensors = [[ov.Tensor(array, shared_memory=True) for array in pair] for pair in zip(xs, ys)]

        def call(i):
            request.set_input_tensor(tensors[i][0])
            request.set_output_tensor(tensors[i][1])
            request.infer()

        call(0)
        check(ys[0], xs[0])
        peer.line("in_fwd", shape, timed(call, len(xs)), len(xs))

    peer.try_each(SHAPES["planes"], "in_fwd", measure)


def ncnn_peer(threads, vulkan):
    import ncnn

    device = f"Vulkan: {ncnn.get_gpu_info(0).device_name()}" if vulkan else f"cpu-{threads}t"
    peer = Peer("ncnn", ncnn.__version__, device)

    def net(shape, layers):
        planes = shape[0] * shape[1]  # there is no batch axis; so many channels are the same work
        text = ["7767517", f"{layers + 1} {layers + 1}", "Input in 0 1 t0"]
        text += [f"InstanceNorm n{i} 1 1 t{i} t{i + 1} 0={planes} 1={EPS} 2=1" for i in range(layers)]
        params = np.concatenate([np.tile(p, shape[0]) for p in affine(shape[1])] * layers)
        net = ncnn.Net()
        net.opt.num_threads, net.opt.use_vulkan_compute = threads, vulkan
        for kind in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{kind}", False)
        with tempfile.TemporaryDirectory() as folder:
            open(f"{folder}/param", "w").write("\n".join(text) + "\n")
            params.tofile(f"{folder}/bin")
            assert net.load_param(f"{folder}/param") == 0 and net.load_model(f"{folder}/bin") == 0
        return net

    def measure(shape):
        xs = inputs(shape)
        mats = [ncnn.Mat(x.reshape(-1, *shape[2:])).clone() for x in xs]
        nets = {layers: net(shape, layers) for layers in (1, CHAIN)}

        def call(layers):
            def run(i):
                extractor = nets[layers].create_extractor()
                extractor.input("t0", mats[i])
                return extractor.extract(f"t{layers}")[1]
            return run

        check(np.array(call(1)(0)), xs[0])
        one, chain = (timed(call(layers), len(xs)) for layers in nets)
        peer.line("in_fwd", shape, one, len(xs), scope="end-to-end")
        slope = (sorted(chain)[len(chain) // 2] - sorted(one)[len(one) // 2]) / (CHAIN - 1)
        if slope <= 0:
            raise RuntimeError("the difference between chains is lost in noise")
        peer.line("in_fwd", shape, [slope], 1, scope="slope")

    peer.try_each(SHAPES["planes"], "in_fwd", measure)


def models(folder):
    for shape in SHAPES["planes"]:
        for layers in (1, CHAIN):
            with open(os.path.join(folder, f"in_{'_'.join(map(str, shape))}_{layers}.onnx"), "wb") as file:
                file.write(onnx_model(shape, layers))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["torch", "ort", "openvino", "ncnn", "models"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vulkan", action="store_true")
    parser.add_argument("--to")
    args = parser.parse_args()
    match args.what:
        case "torch":
            torch_peer(args.threads)
        case "ort":
            ort_peer(args.threads)
        case "openvino":
            openvino_peer(args.threads)
        case "ncnn":
            ncnn_peer(args.threads, args.vulkan)
        case "models":
            models(args.to)


if __name__ == "__main__":
    main()
