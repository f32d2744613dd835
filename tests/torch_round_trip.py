"""Checkpoints between PyTorch and this crate, for real.

`write DIR` saves state dicts of PyTorch layers with random values; the test `torch_round_trip` in checkpoints.rs loads
each and writes it again; `check DIR` loads those strictly and compares every value.
"""

import sys

import torch
from safetensors.torch import load_file, save_file


def layers():
    torch.manual_seed(7)
    return {
        "instance_norm": torch.nn.InstanceNorm2d(5, affine=True, track_running_stats=True),
        "batch_norm": torch.nn.BatchNorm1d(4),
        "group_norm": torch.nn.GroupNorm(2, 6),
        "layer_norm": torch.nn.LayerNorm([3, 4]),
        "rms_norm": torch.nn.RMSNorm([7]),
    }


def randomized(layer):
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.copy_(torch.rand_like(tensor) if tensor.is_floating_point() else torch.tensor(12345))
    return layer


def main():
    _, what, folder = sys.argv
    for name, layer in layers().items():
        file = f"{folder}/{name}.safetensors"
        if what == "write":
            save_file(randomized(layer).state_dict(), file)
            continue
        before, after = load_file(file), load_file(f"{folder}/{name}.back.safetensors")
        layer.load_state_dict(after, strict=True)
        assert before.keys() == after.keys(), (before.keys(), after.keys())
        for key, value in before.items():
            same = layer.state_dict()[key]
            assert value.dtype == same.dtype and torch.equal(value, same), (name, key)
        print(f"{name}: {sorted(after)} came back")


main()
