"""Makes a run whose network says the same and is hard to quantize, by scaling channels between layers.

    harden.py RUN OUT [--seed 0]

Channels get random factors up to 100 times apart, and what reads them the inverse: in ResNet-18 what lies between the two
convolutions of a block (a ReLU commutes with a positive factor), in MobileNetV2 the linear values between blocks, with one
factor a channel for all that is added up. RUN and OUT are run folders; OUT gets the same tensors under the same names.
"""

import argparse
import math
import pathlib
import shutil

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

APART = 100.0
# Blocks of MobileNetV2 (features.N) between which values are added up: each adds to what the first one began.
STAGES = [range(1, 2), range(2, 4), range(4, 7), range(7, 11), range(11, 14), range(14, 17), range(17, 18)]


def joints(tensors):
    """Returns for each set of channels the norms that write them and the convolutions that read them."""
    if "layer1.0.conv1.weight" in tensors:
        blocks = sorted(name.removesuffix(".conv1.weight") for name in tensors if name.endswith(".conv1.weight"))
        if f"{blocks[0]}.conv3.weight" in tensors:
            raise SystemExit("expected blocks of two convolutions, found three: only ResNet-18 and -34 are known")
        return [([f"{b}.bn1"], [f"{b}.conv2"]) for b in blocks]
    if "features.18.0.weight" in tensors:
        # The first block has no expansion, so its projection is one module earlier.
        norms = {n: f"features.{n}.conv.{2 if n == 1 else 3}" for stage in STAGES for n in stage}
        reader = lambda n: "features.18.0" if n == 18 else f"features.{n}.conv.0.0"
        return [([norms[n] for n in stage], [reader(n + 1) for n in stage]) for stage in STAGES]
    raise SystemExit("expected the tensors of ResNet-18 or MobileNetV2, found others")


def harden(run, out, seed=0):
    """Writes `out`, a copy of `run` with scaled channels; returns how many were scaled."""
    with safe_open(run / "weights.safetensors", "numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    rng, scaled = numpy.random.default_rng(seed), 0
    for norms, readers in joints(tensors):
        channels = len(tensors[f"{norms[0]}.weight"])
        # From 1/10 to 10, so that the largest and the smallest are 100 apart and the middle stays.
        half = math.log(APART) / 2
        factors = numpy.exp(rng.uniform(-half, half, channels))
        scaled += channels
        for name in [f"{norm}.{part}" for norm in norms for part in ("weight", "bias")]:
            tensors[name] = (tensors[name] * factors).astype(numpy.float32)
        for name in [f"{reader}.weight" for reader in readers]:
            tensors[name] = (tensors[name] / factors[None, :, None, None]).astype(numpy.float32)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "weights.safetensors", metadata)
    shutil.copy(run / "run.json", out / "run.json")
    return scaled


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{args.out}: {harden(args.run, args.out, args.seed)} channels scaled")


if __name__ == "__main__":
    main()
