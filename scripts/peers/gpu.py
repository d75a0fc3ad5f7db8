"""Times training steps on a GPU, graft's and PyTorch's in turn, and prints a table in Markdown.

    gpu.py --step target/release/examples/step [--networks a,b] [--precisions bf16,tf32] [--batch 128] [--seconds 3]
        [--turns 2] [--compiled]

The first is `cargo build --release -p graft-train --example step`. Both train all layers of the same network on random
pictures of 224 x 224, batch statistics, AdamW (step.rs, train.py). graft's step has the pictures read, copied to the GPU and
normalised in it; PyTorch's finds them there. PyTorch runs channels_last with cuDNN's benchmark, under autocast for bf16, and
with --compiled through torch.compile as well. Needs Python with PyTorch for CUDA and torchvision.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{' '.join(command)}: {done.stderr[-500:]}", file=sys.stderr)
        return None
    line = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"command": command[1:], **line}), file=sys.stderr, flush=True)
    return line


def best(lines, key):
    return min((line[key] for line in lines if line), default=float("nan"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", required=True)
    parser.add_argument("--networks", default="mobilenet_v2,resnet50")
    parser.add_argument("--precisions", default="bf16,tf32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", default="3")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse_args()
    layouts = ["channels_last"] + ["compiled"] * args.compiled
    names = {"channels_last": "PyTorch", "compiled": "PyTorch compiled"}
    header = ["network", "numbers", "graft, ms", *(f"{names[x]}, ms" for x in layouts), "pictures/s", "graft / PyTorch"]
    rows = []
    for network in args.networks.split(","):
        for precision in args.precisions.split(","):
            sizes = [network, "224", str(args.batch), "16", args.seconds]
            graft, torch = [], {layout: [] for layout in layouts}
            for _ in range(args.turns):
                graft.append(run([args.step, *sizes, "batch", precision]))
                for layout in layouts:
                    torch[layout].append(run([sys.executable, str(HERE / "train.py"), layout, *sizes, precision]))
            own = best(graft, "median_ms")
            theirs = {layout: best(lines, "median_ms") for layout, lines in torch.items()}
            low = best(graft, "min_ms")
            cells = [f"{theirs[x]:.1f}" for x in layouts]
            ratio = " and ".join(f"{own / theirs[x]:.2f}" for x in layouts)
            rows.append([network, precision, f"{own:.1f} ({low:.1f})", *cells, f"{args.batch / own * 1e3:.0f}", ratio])
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
