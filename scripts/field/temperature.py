#!/usr/bin/env python3
"""What a prior does to temperatures that are fitted to few pictures; prints a table in Markdown.

    temperature.py --graft target/release/graft MODEL.onnx=TEST-DIR ...

Of each test set (a folder with one folder for each class) 300 random parts of 20 to 150 pictures settle a temperature: by the likelihood
alone, and with normal priors on its logarithm. The other pictures show the mean loss and the calibration error (15 bins). Needs
numpy and scipy.
"""

import argparse
import json
import pathlib
import subprocess

import numpy
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

PARTS, SIZES, SPREADS = 300, (20, 40, 75, 150), (None, numpy.inf, 0.5, 0.25, 0.15)


def answers(graft, model, root):
    files = sorted(f for f in pathlib.Path(root).glob("*/*") if f.is_file())
    told = json.loads(subprocess.run([graft, "predict", model, *files, "--json"], check=True, capture_output=True, text=True).stdout)
    logits = numpy.array([t["logits"] for t in told])
    # graft numbers classes in the order of their folders' names.
    labels = sorted({f.parent.name for f in files})
    return logits, numpy.array([labels.index(f.parent.name) for f in files])


def loss(logits, classes, temperature):
    return -log_softmax(logits / temperature, axis=1)[numpy.arange(len(classes)), classes].mean()


def calibration_error(logits, classes, temperature, bins=15):
    p = numpy.exp(log_softmax(logits / temperature, axis=1))
    best, right = p.max(1), p.argmax(1) == classes
    of = numpy.clip(numpy.ceil(best * bins).astype(int), 1, bins)
    return sum(abs(best[of == b].sum() - right[of == b].sum()) for b in range(1, bins + 1)) / len(classes)


def fit(logits, classes, spread):
    if spread is None:
        return 1.0
    total = lambda log: len(classes) * loss(logits, classes, numpy.exp(log)) + log**2 / (2 * spread**2)
    return float(numpy.exp(minimize_scalar(total, bounds=(-3, 3), method="bounded").x))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", required=True)
    parser.add_argument("sets", nargs="+", metavar="MODEL.onnx=TEST-DIR")
    args = parser.parse_args()
    names = {None: "none fitted", numpy.inf: "no prior"} | {s: f"prior of {s}" for s in SPREADS[2:]}
    print("| set | pictures | " + " | ".join(f"{names[s]}: T, loss, error %" for s in SPREADS) + " |")
    print("|---" * (2 + len(SPREADS)) + "|")
    for pair in args.sets:
        model, root = pair.split("=", 1)
        logits, classes = answers(args.graft, model, root)
        draw = numpy.random.default_rng(0)
        for size in SIZES:
            found = {s: [] for s in SPREADS}
            for _ in range(PARTS):
                order = draw.permutation(len(classes))
                few, rest = order[:size], order[size:]
                for spread, of in found.items():
                    t = fit(logits[few], classes[few], spread)
                    of.append((t, loss(logits[rest], classes[rest], t), 100 * calibration_error(logits[rest], classes[rest], t)))
            means = {s: (numpy.mean(of, axis=0), numpy.std([t for t, _, _ in of])) for s, of in found.items()}
            cells = [f"{m[0]:.2f} ± {d:.2f}, {m[1]:.3f}, {m[2]:.1f}" for m, d in means.values()]
            print(f"| {pathlib.Path(root).parent.name} | {size} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
