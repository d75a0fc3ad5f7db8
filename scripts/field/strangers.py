#!/usr/bin/env python3
"""Pictures that are no leaves, and which score tells them from leaves best.

Cuts tiles of drone pictures and draws spectrograms of spoken words into OUT/drone and OUT/speech: the folders that
`graft evaluate MODEL.graft --data TEST --strangers OUT/drone` takes. With --model, an f32 file of `graft export`, it also compares
scores in ONNX Runtime, on these and on the leaves of another set: energy, largest probability, and distance to the means of the
classes' features (Lee et al., arXiv:1807.03888, with one covariance; Euclidean; by angle; by angle to means in steps of a seventh, which
is what graft ships). Needs numpy and Pillow, and for --model onnx, onnxruntime and scikit-learn.

    python scripts/field/strangers.py --data ../shared/data --out target/field/strangers
    python scripts/field/strangers.py --data ../shared/data --out target/field/strangers --model leaves.onnx --set plantvillage15
"""

import argparse
import json
import wave
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 256
TILES = 60
WORDS = 60


def tiles(data, out):
    """Tiles spread over the drone pictures, a few of each row and column."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = sorted((data / "drone-seneca").glob("*.jpg"))
    each = TILES // len(pictures)
    for path in pictures:
        picture = Image.open(path).convert("RGB")
        across = int(np.ceil(np.sqrt(each)))
        for n in range(each):
            column, row = n % across, n // across
            x = int((picture.width - TILE) * (column + 0.5) / across)
            y = int((picture.height - TILE) * (row + 0.5) / across)
            picture.crop((x, y, x + TILE, y + TILE)).save(out / f"{path.stem}-{n:02}.png")


def spectrograms(data, out):
    """Logarithmic spectrograms of words, as grey pictures."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted((data / "speech-commands" / "test").glob("*/*.wav"))
    for n, path in enumerate(files[:: max(len(files) // WORDS, 1)][:WORDS]):
        with wave.open(str(path)) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2").astype(np.float64)
        samples = np.pad(samples, (0, max(0, 16000 - len(samples))))[:16000]
        frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::62] * np.hanning(512)
        power = np.log(np.abs(np.fft.rfft(frames)) ** 2 + 1e-3).T[::-1]
        grey = 255 * (power - power.min()) / max(power.max() - power.min(), 1e-9)
        picture = Image.fromarray(grey.astype(np.uint8)).resize((TILE, TILE))
        picture.convert("RGB").save(out / f"{n:02}-{path.parent.name}.png")


def compare(model, data, name, out):
    import onnx
    import onnxruntime
    from sklearn.metrics import roc_auc_score

    graph = onnx.load(model)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    labels = json.loads(told["graft.labels"])
    how = json.loads(told["graft.preprocessing"])
    head = next(node for node in reversed(graph.graph.node) if node.op_type in ("Gemm", "MatMul"))
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(head.input[0]))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name

    def answers(paths):
        logits, features = [], []
        for path in paths:
            picture = Image.open(path).convert("RGB")
            scale = how["resize_shorter"] / min(picture.size)
            picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.BILINEAR)
            crop = how["crop"]
            x, y = (picture.width - crop) // 2, (picture.height - crop) // 2
            pixels = np.asarray(picture.crop((x, y, x + crop, y + crop)))[None]
            found = session.run(None, {entry: pixels})
            logits.append(found[0].ravel())
            features.append(found[-1].ravel())
        return np.array(logits, np.float64), np.array(features, np.float64)

    def pictures(part):
        paths = sorted((data / name / part).glob("*/*.jpg"))
        return paths, np.array([labels.index(path.parent.name) for path in paths])

    train, classes = pictures("train")
    _, seen = answers(train)
    means = np.array([seen[classes == c].mean(axis=0) for c in range(len(labels))])
    coarse = np.round(means / np.abs(means).max(axis=1, keepdims=True) * 7)
    spread = seen - means[classes]
    covariance = spread.T @ spread / len(spread)
    # As many features as pictures: the estimate needs a ridge to have an inverse.
    precision = np.linalg.inv(covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))

    def scores(logits, features):
        top = logits.max(axis=1, keepdims=True)
        apart = features[:, None, :] - means[None]
        unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
        return {
            "energy": -(top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))),
            "largest probability": -1 / np.exp(logits - top).sum(axis=1),
            "largest logit": -top[:, 0],
            "Mahalanobis": np.einsum("ncd,de,nce->nc", apart, precision, apart).min(axis=1),
            "distance": np.linalg.norm(apart, axis=2).min(axis=1),
            "angle": -(unit(features) @ unit(means).T).max(axis=1),
            "angle, coarse": -(unit(features) @ unit(coarse).T).max(axis=1),
        }

    own = scores(*answers(pictures("test")[0]))
    print(f"| AUROC, {name} | " + " | ".join(own) + " |")
    print("|---|" + "---|" * len(own))
    strangers = {kind: sorted((out / kind).glob("*.png")) for kind in ("drone", "speech")}
    leaves = "coffee-leaf" if name == "plantvillage15" else "plantvillage15"
    strangers[leaves] = sorted((data / leaves / "test").glob("*/*.jpg"))
    for kind, paths in strangers.items():
        other = scores(*answers(paths))
        cells = []
        for score, values in own.items():
            truth = np.r_[np.zeros(len(values)), np.ones(len(other[score]))]
            cells.append(f"{roc_auc_score(truth, np.r_[values, other[score]]):.3f}")
        print(f"| {kind} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--set", default="plantvillage15")
    args = parser.parse_args()
    tiles(args.data, args.out / "drone")
    spectrograms(args.data, args.out / "speech")
    if args.model:
        compare(args.model, args.data, args.set, args.out)


if __name__ == "__main__":
    main()
