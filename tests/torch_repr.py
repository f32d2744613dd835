"""PyTorch's text of every layer, with every kind of setting: `python torch_repr.py > torch_repr.jsonl`.

A line has the class, its arguments, and what `repr` gives; of lazy classes also what it gives after the first input,
unless nothing is created by it: then PyTorch goes on with 0 features. The test `layers_print_as_in_pytorch` in display.rs
builds the same layers here.
"""

import itertools
import json

import torch

EPS = [1e-5, 0.0, 1e-12, 1.5e-7, 0.0001, 0.001, 1.0, 2e16]
MOMENTA = [0.1, None, 0.0, 1.0, 0.01, -1.2]
AFFINE = [(False, True), (True, False), (True, True)]


def show(name, args, inputs=None, **settings):
    layer = getattr(torch.nn, name)(*args, **settings)
    line = {"layer": name, "args": args, **settings, "repr": repr(layer)}
    if inputs is not None and (settings["affine"] or settings["track_running_stats"]):
        layer.eval()(inputs)  # in training it refuses an eps of 0
        line["after"] = repr(layer)
    print(json.dumps(line))


def tracked(name, args, inputs=None):
    for (affine, bias), track, momentum in itertools.product(AFFINE, [False, True], MOMENTA[:2]):
        show(name, args, inputs, affine=affine, bias=bias, track_running_stats=track, momentum=momentum)
    for eps in EPS:
        show(name, args, inputs, affine=True, track_running_stats=True, eps=eps)
    for momentum in MOMENTA[2:]:
        show(name, args, inputs, affine=True, track_running_stats=True, momentum=momentum)


for d in [1, 2, 3]:
    for kind in ["InstanceNorm", "BatchNorm"]:
        show(f"{kind}{d}d", [100])
        tracked(f"{kind}{d}d", [6])
        tracked(f"Lazy{kind}{d}d", [], torch.zeros([2, 3] + [4] * d))
for eps, (affine, bias) in itertools.product(EPS, AFFINE):
    show("GroupNorm", [3, 6], eps=eps, affine=affine, bias=bias)
    for shape in [[6], [3, 5], [1, 2, 3, 4]]:
        show("LayerNorm", [shape], eps=eps, elementwise_affine=affine, bias=bias)
for eps, affine in itertools.product([None, *EPS], [False, True]):
    show("RMSNorm", [[6]], eps=eps, elementwise_affine=affine)
    show("RMSNorm", [[3, 5]], eps=eps, elementwise_affine=affine)
show("GroupNorm", [1, 100])
show("LayerNorm", [[10]])
show("RMSNorm", [[10]])
