"""Makes activations.safetensors: PyTorch's activations and their gradients at the extremes of f32.

`python activations.py` with torch and safetensors writes the file beside this script. It holds

- `v`: what the activations are applied to, all signs: zeros, subnormal numbers, every decade up to f32's largest number,
  the places where implementations switch or stop, numbers that f16 and bf16 hold, infinities, NaN;
- `NAME.value`, `NAME.slope`: the activation and its derivative there, computed by PyTorch in f64 and rounded to f32;
- `NAME.value.f32`, `NAME.slope.f32`: what PyTorch's own f32 kernels give. They overflow for both GELUs, and lose digits
  where 1 + erf or 1 + tanh cancels: `surprises` prints where;
- `at`, `dy`: pairs of a place and an incoming gradient, infinities and NaN among them;
- `NAME.gradient`, `NAME.gradient.f32`: the gradient that comes out, in the same two ways.

The f64 formulas avoid the cancellation of 1 + erf, 1 + tanh and 1 - tanh²; `agree` checks them against PyTorch's own f64
kernels, which differ by a few units of 1e-16. A gradient is one product with dy, as in PyTorch, but for ReLU and its
leaky kind, where it is a choice: those are differentiated by autograd.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

INF, NAN = math.inf, math.nan
MAX = torch.finfo(torch.float32).max
TANH = math.sqrt(2 / math.pi)


def tanh_argument(v):
    return TANH * (v + 0.044715 * v**3)


def slope(f):
    """The derivative, by autograd."""

    def of(v):
        v = v.detach().clone().requires_grad_()
        return torch.autograd.grad(f(v).sum(), v)[0]

    return of


def leaky(slope):
    return lambda v: F.leaky_relu(v, slope)


def gelu(v):
    return v * 0.5 * torch.special.erfc(-v * math.sqrt(0.5))


def gelu_tanh(v):
    return v * torch.sigmoid(2 * tanh_argument(v))


# PyTorch's function, and where that loses digits even in f64 another one, and its derivative.
SLOPES = {"leaky": 0.01, "leaky_zero": 0.0, "leaky_negative": -2.0, "leaky_large": 1e30}
SLOPES = {name: torch.tensor(slope, dtype=torch.float32).item() for name, slope in SLOPES.items()}
PLAIN = {"relu": F.relu} | {name: leaky(slope) for name, slope in SLOPES.items()}
SMOOTH = {
    "silu": (F.silu, F.silu, slope(F.silu)),
    "gelu": (F.gelu, gelu, slope(gelu)),
    "gelu_tanh": (lambda v: F.gelu(v, approximate="tanh"), gelu_tanh, slope(gelu_tanh)),
    "tanh": (torch.tanh, torch.tanh, lambda v: 4 * torch.sigmoid(2 * v) * torch.sigmoid(-2 * v)),
    "sigmoid": (torch.sigmoid, torch.sigmoid, lambda v: torch.sigmoid(v) * torch.sigmoid(-v)),
}


def places():
    """Every v, f32."""
    near = [0.35, 1.25, 1.77, 4, 5.66, 5.8, 9, 10.05, 12, 13, 13.04, 17, 40, 75, 80, 88, 88.72, 100, 104, 150, 1e4]
    positive = [0.0, 1e-45, MAX, math.nextafter(MAX, 0), 65504.0, 65472.0, 3.3895313892515355e38]
    positive += [2.0**k for k in range(-148, 128, 3)] + [1.5 * 2.0**k for k in range(-147, 127, 6)]
    positive += [i / 8 for i in range(1, 81)] + [i / 2 for i in range(21, 60)]
    positive += [10.0**k for k in range(-44, 39)] + [3.3 * 10.0**k for k in range(-38, 38, 3)]
    positive = torch.tensor(positive, dtype=torch.float32)
    around = torch.tensor(near, dtype=torch.float32)
    around = torch.cat([around, torch.nextafter(around, torch.tensor(INF)), around * 0.999, around * 1.001])
    both = torch.cat([positive, around]).unique()
    return torch.cat([-both, both, torch.tensor([-INF, INF, NAN])])


def pairs():
    at = [0.0, 1e-40, 1e-30, 0.5, 1, 5, 9, 20, 100, 1e10, 1e33, MAX, INF]
    at = [-v for v in at] + at + [NAN]
    dy = [INF, -INF, NAN, MAX, -MAX, 1e30, 1e-38, -1e-40, 0.0]
    grid = torch.cartesian_prod(torch.tensor(at, dtype=torch.float32), torch.tensor(dy, dtype=torch.float32))
    return grid[:, 0].contiguous(), grid[:, 1].contiguous()


def agree(name, what, ours, torchs):
    """Two f64 results, but where PyTorch's formula meets infinity times 0."""
    close = (ours - torchs).abs() <= 1e-14 * ours.abs().clamp(min=1)
    same = close | (ours == torchs) | (ours.isnan() & torchs.isnan())
    assert same.all(), (name, what, ours[~same], torchs[~same])


def surprises(name, what, place, truth, f32, size):
    truth = truth.float()
    off = (f32.double() - truth).abs() > 1e-6 * truth.abs().double().maximum(size.abs())
    off |= f32.isfinite() != truth.isfinite()
    if off.any():
        print(f"{name}.{what}: PyTorch's f32 differs at {place[off].tolist()}: {f32[off].tolist()}")


def gradient(f, v, dy):
    v = v.clone().requires_grad_()
    return torch.autograd.grad(f(v), v, dy)[0]


def main():
    v, (at, dy) = places(), pairs()
    tensors = {"v": v, "at": at, "dy": dy}

    def add(name, what, place, truth, f32, size=torch.tensor(1.0)):
        surprises(name, what, place, truth, f32, size)
        tensors[f"{name}.{what}"] = truth.float()
        tensors[f"{name}.{what}.f32"] = f32

    for name, f in PLAIN.items():
        functions = {"value": f, "slope": slope(f)}
        for what, function in functions.items():
            add(name, what, v, function(v.double()), function(v))
        add(name, "gradient", at, gradient(f, at.double(), dy.double()), gradient(f, at, dy), dy)
    for name, (f, value, derivative) in SMOOTH.items():
        add(name, "value", v, value(v.double()), f(v))
        add(name, "slope", v, derivative(v.double()), slope(f)(v))
        add(name, "gradient", at, derivative(at.double()) * dy.double(), gradient(f, at, dy), dy)
        agree(name, "value", value(v.double()), f(v.double()))
        agree(name, "slope", derivative(v.double()), slope(f)(v.double()))
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    facts = {"torch": torch.__version__, **{name: str(slope) for name, slope in SLOPES.items()}}
    file = Path(__file__).with_suffix(".safetensors")
    save_file(tensors, file, metadata=facts)
    print(f"{len(v)} places, {len(at)} gradients, {file.stat().st_size} bytes")


main()
