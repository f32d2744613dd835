"""A second folder of golden vectors: the network of ../index.json in other sizes, and a few layers, from PyTorch.

    python make.py    (torch, safetensors; written with PyTorch 2.15.0)

The harness (tests/golden.rs) runs it to show that no size, name or number of cases of the first folder is fixed in it.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent
SOURCE = f"pytorch {torch.__version__}"


class Network(nn.Module):
    """conv -> IN2d(affine, track) -> relu -> conv -> BN2d -> relu -> conv -> GN -> + skip -> IN2d -> mean of squares -> LN ->
    RMS -> linear"""

    def __init__(self, colors, channels, inner, groups, outputs):
        super().__init__()
        self.stem = nn.Conv2d(colors, channels, 5, padding=2)
        self.norm1 = nn.InstanceNorm2d(channels, affine=True, track_running_stats=True, momentum=0.3)
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner, eps=1e-3),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.GroupNorm(groups, channels),
        )
        self.norm2 = nn.InstanceNorm2d(channels)
        self.head = nn.Sequential(nn.LayerNorm(channels), nn.RMSNorm(channels, eps=1e-6), nn.Linear(channels, outputs))

    def forward(self, x):
        skip = torch.relu(self.norm1(self.stem(x)))
        y = self.norm2(self.block(skip) + skip)
        return self.head((y * y).mean((2, 3)))


def parameter(name, tensor):
    """Not the defaults, so that each of them counts."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(3)
    if name.endswith(("running_mean", "bias")):
        return 0.3 * torch.randn_like(tensor)
    if name.endswith("running_var") or tensor.dim() == 1:
        return 0.5 + torch.rand_like(tensor)
    return torch.randn_like(tensor) / tensor[0].numel() ** 0.5


def network(name, x_shape, **sizes):
    net = Network(x_shape[1], **sizes)
    net.load_state_dict({k: parameter(k, v) for k, v in net.state_dict().items()})
    save_file(net.state_dict(), HERE / f"{name}_state_dict.safetensors")
    leaves = {k: m for k, m in net.named_modules() if not list(m.children())}
    tensors = {}

    def record(phase, leaf):
        def hook(_, inputs, output):
            tensors[f"{name}/{phase}/{leaf}.in"] = inputs[0].detach().clone()
            tensors[f"{name}/{phase}/{leaf}.out"] = output.detach().clone()

        return hook

    x = torch.randn(x_shape)
    tensors[f"{name}/x"] = x.clone()
    phases = ["eval0", "train1", "train2", "eval3"]
    for phase in phases:
        train = phase.startswith("train")
        net.train(train)
        hooks = [m.register_forward_hook(record(phase, k)) for k, m in leaves.items()]
        net.zero_grad()
        x.requires_grad_(train)
        x.grad = None
        out = net(x)
        [hook.remove() for hook in hooks]
        put = lambda key, value: tensors.__setitem__(f"{name}/{phase}/{key}", value.detach().clone())
        put("out", out)
        if train:
            dout = torch.randn_like(out)
            (out * dout).sum().backward()
            put("dout", dout)
            put("grad.x", x.grad)
            [put(f"grad.{k}", p.grad) for k, p in net.named_parameters()]
            [put(f"after.{k}", v) for k, v in net.named_buffers()]
        x.requires_grad_(False)
    save_file(tensors, HERE / f"{name}_io.safetensors", {"format": "pt", "source": SOURCE})
    return {
        "id": name,
        "op": "network",
        "source": SOURCE,
        "file": f"{name}_io.safetensors",
        "state_dict": f"{name}_state_dict.safetensors",
        "dtype": "float32",
        "shape": list(x_shape),
        "inputs": {"x": {"tensor": f"{name}/x", "dtype": "float32", "shape": list(x_shape)}},
        "expected": {},
        "phases": phases,
        "layers": [[k, type(m).__name__, m.extra_repr()] for k, m in leaves.items()],
        "graph": Network.__doc__,
        "tol": {"atol": 2e-5, "rtol": 1e-5},
        "tier": "core",
    }


def layer(name, op, params, module, shape, train=True):
    """A layer in training, or in evaluation, and its gradients."""
    module.load_state_dict({k: parameter(k, v) for k, v in module.state_dict().items()})
    inputs = {{"weight": "weight", "bias": "bias"}.get(k, k): v.clone() for k, v in module.state_dict().items()}
    inputs.pop("num_batches_tracked", None)
    double = type(module)(**params).double()
    double.load_state_dict(module.state_dict())
    inputs |= {"x": torch.randn(shape), "dy": torch.randn(shape)}

    def run(module, dtype):
        module.train(train)
        x = inputs["x"].detach().clone().to(dtype).requires_grad_()
        y = module(x)
        y.backward(inputs["dy"].to(dtype))
        out = {"y": y.detach(), "dx": x.grad, "dgamma": module.weight.grad, "dbeta": module.bias.grad}
        if train and hasattr(module, "running_mean"):
            out |= {f"{k}_out": v for k, v in module.named_buffers() if k != "num_batches_tracked"}
        return out

    single, exact = run(module, torch.float32), run(double, torch.float64)
    tensors = {f"{name}/{k}": v.contiguous() for k, v in (inputs | single).items()}
    tensors |= {f"{name}/{k}_f64": v for k, v in exact.items()}
    save_file(tensors, HERE / f"{name}.safetensors")
    described = lambda k, v: {"tensor": f"{name}/{k}", "dtype": "float32", "shape": list(v.shape)}
    bound = lambda k, v: {
        "atol": 1e-4,
        "rtol": 1e-6,
        "atol_good": 2e-6 * max(1.0, exact[k].abs().max().item()),
        "err_f64": (v.double() - exact[k]).abs().max().item(),
    }
    return {
        "id": name,
        "op": op,
        "source": SOURCE,
        "file": f"{name}.safetensors",
        "params": params,
        "dtype": "float32",
        "param_dtype": "float32",
        "layout": "nchw",
        "shape": list(shape),
        "mode": "train" if train else "eval",
        "inputs": {k: described(k, v) for k, v in inputs.items()},
        "expected": {
            k: described(k, v) | {"truth_f64": f"{name}/{k}_f64", "tol": bound(k, v)} for k, v in single.items()
        },
        "tier": "core",
    }


torch.manual_seed(20)
torch.set_num_threads(1)
FORMULA_CHECK = json.loads((HERE.parent / "index.json").read_text())["formula_check"]
CASES = [
    network("wide", (3, 2, 4, 3), channels=10, inner=7, groups=5, outputs=4),
    layer("in_7", "instance_norm", {"num_features": 7, "affine": True}, nn.InstanceNorm2d(7, affine=True), (2, 7, 3, 5)),
    layer("ln_9", "layer_norm", {"normalized_shape": [9]}, nn.LayerNorm(9), (5, 9)),
]
INDEX = {"format": "norm-golden/1", "split": "other", "formula_check": FORMULA_CHECK, "cases": CASES}
(HERE / "index.json").write_text(json.dumps(INDEX, indent=1) + "\n")
