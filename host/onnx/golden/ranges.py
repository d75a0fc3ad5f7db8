"""Ranges that others choose for some activations: writes ranges.json for src/quantize/range.rs to compare with.

ONNX Runtime's HistogramCalibrater by entropy and percentile; the measure of entropy that graft states, over plain
arrays; and the range of least squared error on the values themselves, by trying all.
"""

import contextlib
import io
import json
import pathlib

import numpy as np
from bell import bell, draw
from onnxruntime.quantization.calibrate import HistogramCollector

COUNT = 20_000
BINS = 2048
LEVELS = 256


def activations() -> dict[str, np.ndarray]:
    z = bell("activations", COUNT)
    far = np.where(np.arange(COUNT) % 2000 == 999, 12.0, 1.0)
    raw = {
        "bell": z,
        "rectified": np.maximum(z, 0.0),
        "even": draw("even", COUNT),
        "peaked": z * z * z,
        "outliers on both sides": z * far,
        "outliers on one side": np.abs(z) * far,
        "hard swish": z * 2 * np.clip(z * 2 + 3, 0, 6) / 6,
        "capped": np.clip(z * 3, 0, 6),
        "below zero": -np.abs(z),
        "rare outlier on two sides": np.append(z, 40.0),
        "rare outlier on one side": np.append(np.abs(z), 40.0),
    }
    # The largest magnitude just below 1: ONNX Runtime's bins are graft's then.
    return {k: (v / np.abs(v).max() * (1 - 2.0**-24)).astype(np.float32) for k, v in raw.items()}


def onnxruntime(x: np.ndarray, method: str, percentile: float = 99.99) -> list[float]:
    """What its HistogramCalibrater chooses from as many bins, 256 levels on each side of zero."""
    collector = HistogramCollector(method, False, 2 * BINS, 2 * LEVELS, percentile, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": x})
        found = collector.compute_collection_result()["x"]
    return [float(found[0]), float(found[1])]


def entropy(x: np.ndarray) -> list[float]:
    """The measure of src/quantize/range/divergence.rs, bin by bin."""
    x = x[x != 0]
    bins = (np.abs(x.astype(np.float64)) * BINS).astype(int)
    sides = [np.bincount(bins[side], minlength=BINS) for side in (x < 0, x > 0)]
    used = [int(np.max(np.nonzero(side)[0], initial=-1)) + 1 for side in sides]
    hist = np.concatenate([sides[0][::-1], sides[1]]).astype(np.float64)
    best = (np.inf, used)
    for threshold in range(1, max(used) + 1):
        a, b = (min(threshold, u) for u in used)
        if a + b < LEVELS:
            continue
        own = hist[BINS - a : BINS + b]
        p = own.copy()
        p[0] += hist[: BINS - a].sum()
        p[-1] += hist[BINS + b :].sum()
        level = np.arange(a + b) * LEVELS // (a + b)
        filled = np.bincount(level, p > 0, LEVELS)
        q = (np.bincount(level, own, LEVELS) / np.maximum(filled, 1))[level]
        p, q = p[p > 0], q[p > 0]
        q[q == 0] = 1e-4
        p, q = p / p.sum(), q / q.sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence <= best[0]:
            best = (divergence, [a, b])
    low, high = -best[1][0] / BINS, best[1][1] / BINS
    return [min(max(low, float(x.min())), 0.0), max(min(high, float(x.max())), 0.0)]


def error(x: np.ndarray, times: int, low: float, high: float) -> float:
    """Mean squared error of u8 affine quantization in doubles, of values that come so often, but the last once."""
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    squares = (x - (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale) ** 2
    return float((squares[:-1].sum() * times + squares[-1]) / ((len(x) - 1) * times + 1))


def least_squares(x: np.ndarray, times: int) -> list[float]:
    """The least error and the range that has it, by trying shares of both extremes."""
    x = x.astype(np.float64)
    low, high = min(x.min(), 0.0), max(x.max(), 0.0)
    steps = 48 if low < 0 < high else 1000
    shares = np.arange(1, steps + 1) / steps
    lows, highs = (shares * e if e else [0.0] for e in (low, high))
    return list(min((error(x, times, l, h), l, h) for l in lows for h in highs))


def main() -> None:
    lines = []
    for name, x in activations().items():
        times = 200 if name.startswith("rare") else 1
        least, low, high = least_squares(x, times)
        told = {
            "name": name,
            "times": times,
            "ort_entropy": onnxruntime(x, "entropy"),
            "ort_percentile": onnxruntime(x, "percentile", 99.9),
            "entropy": entropy(x),
            "mse": [low, high],
            "mse_error": least,
            "full_error": error(x, times, min(float(x.min()), 0.0), max(float(x.max()), 0.0)),
        }
        lines.append(json.dumps(told))
        print(lines[-1], flush=True)
    pathlib.Path(__file__).with_name("ranges.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
