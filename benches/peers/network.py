#!/usr/bin/env python3
"""Times the demo's network, width 32 with random weights, in PyTorch, ONNX Runtime and the demo itself on the host.

network.py --demo target/release/style-transfer [--threads N] [--size N]

A JSON line per peer. All see the same picture and the same weights; PyTorch and ONNX Runtime are timed from tensor to
tensor, the demo from picture to picture."""
import argparse
import json
import os
import re
import struct
import subprocess
import tempfile
import zlib

import numpy as np

from peers import EPS, Peer, timed

# Prefix of the convolution, of its norm; input and output channels, kernel, stride, upsampling.
LAYERS = [("conv1", "in1", 3, 32, 9, 1, 1), ("conv2", "in2", 32, 64, 3, 2, 1), ("conv3", "in3", 64, 128, 3, 2, 1)]
for block in range(1, 6):
    LAYERS += [(f"res{block}.conv{i}", f"res{block}.in{i}", 128, 128, 3, 1, 1) for i in (1, 2)]
LAYERS += [("deconv1", "in4", 128, 64, 3, 1, 2), ("deconv2", "in5", 64, 32, 3, 1, 2), ("deconv3", None, 32, 3, 9, 1, 1)]


def weights():
    random = np.random.default_rng(7)
    tensors = {}
    for conv, norm, inputs, outputs, kernel, _, _ in LAYERS:
        scale = 1 / np.sqrt(inputs * kernel * kernel)
        shape = (outputs, inputs, kernel, kernel)
        tensors[f"{conv}.conv2d.weight"] = random.normal(0, scale, shape).astype(np.float32)
        tensors[f"{conv}.conv2d.bias"] = np.zeros(outputs, np.float32)
        if norm:
            tensors[f"{norm}.weight"] = random.uniform(0.5, 1.5, outputs).astype(np.float32)
            tensors[f"{norm}.bias"] = random.uniform(-0.2, 0.2, outputs).astype(np.float32)
    return tensors


def walk(x, conv, norm, relu, upsample, add):
    """The network in somebody's operations."""
    block = None
    for name, affine, _, _, kernel, stride, up in LAYERS:
        if name.startswith("res") and name.endswith("conv1"):
            block = x
        if up == 2:
            x = upsample(x, name)
        x = conv(x, name, kernel, stride)
        if affine:
            x = norm(x, affine)
            x = add(x, block, name) if name.startswith("res") and name.endswith("conv2") else relu(x, name)
    return x


def in_torch(tensors, threads):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    t = {name: torch.from_numpy(values) for name, values in tensors.items()}

    def conv(x, name, kernel, stride):
        x = F.pad(x, [kernel // 2] * 4, mode="reflect")
        return F.conv2d(x, t[name + ".conv2d.weight"], t[name + ".conv2d.bias"], stride=stride)

    def run(x):
        with torch.inference_mode():
            return walk(torch.from_numpy(x), conv, lambda x, n: F.instance_norm(x, None, None, t[n + ".weight"], t[n + ".bias"], eps=EPS),
                        lambda x, _: torch.relu(x), lambda x, _: F.interpolate(x, scale_factor=2, mode="nearest"),
                        lambda a, b, _: a + b).numpy()

    return "PyTorch", torch.__version__, run


def in_onnx_runtime(tensors, threads, size):
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def op(kind, inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [f"{name}.{kind}"], **attributes))
        return f"{name}.{kind}"

    def constant(name, values):
        constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(x, name, kernel, stride):
        p = kernel // 2
        x = op("Pad", [x, constant(name + ".pads", np.array([0, 0, p, p] * 2, np.int64))], name, mode="reflect")
        wb = [constant(f"{name}.{end}", tensors[f"{name}.conv2d.{end}"]) for end in ("weight", "bias")]
        return op("Conv", [x, *wb], name, kernel_shape=[kernel, kernel], strides=[stride, stride])

    def norm(x, name):
        wb = [constant(f"{name}.{end}", tensors[f"{name}.{end}"]) for end in ("weight", "bias")]
        return op("InstanceNormalization", [x, *wb], name, epsilon=EPS)

    def upsample(x, name):
        scales = constant(name + ".scales", np.array([1, 1, 2, 2], np.float32))
        return op("Resize", [x, "", scales], name, mode="nearest", nearest_mode="floor",
                  coordinate_transformation_mode="asymmetric")

    y = walk("x", conv, norm, lambda x, n: op("Relu", [x], n), upsample, lambda a, b, n: op("Add", [a, b], n))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, size, size]) for name in ("x", y)]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return "ONNX Runtime", onnxruntime.__version__, lambda x: session.run(None, {"x": x})[0]


def safetensors(tensors):
    """The file's bytes."""
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + b"".join(values.tobytes() for values in tensors.values())


def png(picture):
    """Of (height, width, 3) bytes."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = picture.shape
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def demo(binary, folder, tensors, picture, threads):
    """Milliseconds of a painting, from the demo's own words."""
    files = {"style.safetensors": safetensors(tensors), "photo.png": png(picture)}
    style, photo = (os.path.join(folder, name) for name in files)
    for path, data in zip((style, photo), files.values()):
        with open(path, "wb") as file:
            file.write(data)
    command = [binary, "--backend", "host", "--style", style, photo, os.path.join(folder, "painting.png")]
    said = subprocess.run(command, check=True, capture_output=True, text=True,
                          env=dict(os.environ, RAYON_NUM_THREADS=str(threads))).stdout
    return 1e3 * float(re.search(r"([0-9.]+) s to paint", said)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--demo", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    threads, size = options.threads, options.size
    tensors, shape = weights(), [1, 3, size, size]
    picture = np.random.default_rng(3).integers(0, 256, (size, size, 3), dtype=np.uint8)
    x = np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32))
    peers = [in_torch(tensors, threads), in_onnx_runtime(tensors, threads, size)]
    expected, got = (run(x) for _, _, run in peers)
    if not np.abs(expected - got).max() < 1e-2 * np.abs(expected).max():
        raise RuntimeError("PyTorch and ONNX Runtime do not agree")
    for name, version, run in peers:
        times = timed(lambda _: run(x), 1)
        Peer(name, version, f"cpu-{threads}t").line("network", shape, times, 1, scope="end-to-end")
    with tempfile.TemporaryDirectory() as folder:
        times = [demo(options.demo, folder, tensors, picture, threads) for _ in range(9)]
    Peer("wgnorm's demo", "0.1.0", f"host-{threads}t").line("network", shape, times, 1, scope="end-to-end")


if __name__ == "__main__":
    main()
