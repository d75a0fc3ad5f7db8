"""What torchvision's and timm's models make of one picture, node by node.

    pip install -r requirements.txt && python layers.py

writes NAME.json beside this file, for host/train/src/net/golden.rs to compare with. Weights and picture are drawn from a hash
that the test has too, so that no file holds them; the models compute in double precision. timm's ResNets go by torchvision's
names and are checked here to give the same.
"""

import json
import pathlib

import numpy as np
import timm
import torch
import torchvision
from draw import draw, fnv
from torch import nn

SIDE = 72
CLASSES = 1000
# The zoo's id, torchvision's constructor, timm's name.
MODELS = [
    ("mobilenet_v2", lambda: torchvision.models.mobilenet_v2(), "mobilenetv2_100"),
    ("mobilenet_v2:0.35", lambda: torchvision.models.mobilenet_v2(width_mult=0.35), "mobilenetv2_035"),
    ("mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small(), "mobilenetv3_small_100"),
    ("mobilenet_v3_large", lambda: torchvision.models.mobilenet_v3_large(), "mobilenetv3_large_100"),
    ("efficientnet_b0", lambda: torchvision.models.efficientnet_b0(), "efficientnet_b0"),
    ("resnet18", lambda: torchvision.models.resnet18(), "resnet18"),
    ("resnet34", lambda: torchvision.models.resnet34(), "resnet34"),
    ("resnet50", lambda: torchvision.models.resnet50(), "resnet50"),
]


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of a name, rounded to single precision."""
    u = draw(name, int(np.prod(shape)))
    if name.endswith("running_var"):
        v = 0.5 + u
    elif len(shape) > 1:
        v = (2 * u - 1) * np.sqrt(6.0 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        v = 0.75 + 0.5 * u
    else:
        v = (2 * u - 1) * 0.25
    return v.astype(np.float32).reshape(shape)


def filled(model: nn.Module) -> tuple[nn.Module, int]:
    """The model with its weights drawn, and the hash of its tensors' names and shapes."""
    tensors, lines = {}, []
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            shape = tuple(tensor.shape)
            tensors[name] = torch.from_numpy(fill(name, shape))
            lines.append(f"{name} {' '.join(map(str, shape))}\n")
    model.load_state_dict(tensors, strict=False)
    return model.double().eval(), fnv("".join(sorted(lines)).encode())


def adds(module: nn.Module) -> bool:
    """Whether a block adds what it reads."""
    if type(module).__name__ in ("BasicBlock", "Bottleneck"):
        return True
    return getattr(module, "use_res_connect", False) or getattr(module, "has_skip", False)


ACTIVATIONS = ("ReLU", "ReLU6", "Hardswish", "SiLU")


def record(model: nn.Module, picture: torch.Tensor) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor]:
    """Every node's value, in the order of computation, and the logits."""
    found: list[tuple[str, torch.Tensor]] = []
    inside = tuple(n for n, m in model.named_modules() if type(m).__name__ in ("SqueezeExcitation", "SqueezeExcite"))
    head = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    before: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        if name.startswith(tuple(f"{n}." for n in inside)):
            continue

        def enter(module, args, name=name):
            before[name] = args[0].clone()
            if name == head and found[-1][1].flatten().shape != args[0].flatten().shape:
                # torchvision's MobileNetV2 has no module that pools.
                found.append(("pool", before[name]))

        def leave(module, args, out, name=name, kind=kind):
            if kind in ACTIVATIONS:
                # It closes the last node where nothing came between, such as a sum.
                if found and found[-1][1].shape == out.shape and torch.equal(found[-1][1], before[name]):
                    found[-1] = (found[-1][0], out.clone())
            elif kind.startswith("BatchNorm"):
                if len(list(module.children())) == 0 or not torch.equal(found[-1][1], out):
                    found[-1] = (found[-1][0], out.clone())
            elif name != head:
                found.append((name, out.clone()))

        leaf = kind in ACTIVATIONS + ("Conv2d", "Linear", "MaxPool2d", "AdaptiveAvgPool2d", "SelectAdaptivePool2d")
        pooled = kind == "AdaptiveAvgPool2d" and name.endswith("global_pool.pool")
        if (leaf and not pooled) or kind.startswith("BatchNorm") or name in inside or adds(module):
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    with torch.no_grad():
        logits = model(picture)
    return found, logits


def line(name: str, value: torch.Tensor) -> dict:
    """Shape, mean, deviation and three samples."""
    numbers = value.flatten().numpy()
    at = [len(numbers) // 7, len(numbers) // 2, len(numbers) - 1]
    short = lambda x: float(f"{x:.6e}")
    return {
        "name": name,
        "shape": list(value.shape[1:2] if value.shape[2:].numel() == 1 else value.shape[1:]),
        "mean": short(numbers.mean()),
        "std": short(numbers.std()),
        "samples": [short(numbers[i]) for i in at],
    }


def write(path: pathlib.Path, model: nn.Module) -> dict:
    model, names = filled(model)
    pixels = (draw("picture", SIDE * SIDE * 3) * 256).astype(np.uint8).reshape(1, SIDE, SIDE, 3)
    picture = torch.from_numpy((pixels.astype(np.float64) - 127.5) / 127.5).permute(0, 3, 1, 2).contiguous()
    nodes, logits = record(model, picture)
    eps = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(eps) == 1, eps
    lines = [line(n, v) for n, v in nodes] + [line("logits", logits)]
    told = {"bn_eps": eps.pop(), "tensors": f"{names:016x}"}
    text = ",\n".join(json.dumps(entry) for entry in lines)
    path.write_text(json.dumps(told)[:-1] + f',\n"nodes": [\n{text}\n]}}\n')
    return told | {"nodes": [{k: v for k, v in n.items() if k != "name"} for n in lines]}


def main() -> None:
    here = pathlib.Path(__file__).parent
    for zoo, make, name in MODELS:
        stem = zoo.replace(":", "_")
        ours = write(here / f"{stem}.torchvision.json", make())
        path = here / f"{stem}.timm.json"
        theirs = write(path, timm.create_model(name, num_classes=CLASSES))
        if zoo.startswith("resnet"):
            assert ours == theirs, zoo
            path.unlink()
        print(zoo, len(ours["nodes"]), len(theirs["nodes"]))


if __name__ == "__main__":
    main()
