"""Weights that others quantize and make up for: writes layers.json for src/quantize/{rounding,equalize,bias}.rs.

GPTQ by its own algorithm, with the moments inverted, in doubles (Frantar et al., arXiv:2210.17323, algorithm 1); scales
of least squared error by trying all; factors between channels by their formula; shifts of means by ONNX Runtime's
convolutions.
"""

import json
import pathlib

import numpy as np
import onnxruntime
from bell import bell, draw
from onnx import TensorProto, helper

DAMPING = 0.01


def inputs(name: str, rows: int, k: int) -> np.ndarray:
    """Rows of inputs that depend on each other, never below zero, some far larger than others."""
    mixed = bell(f"{name} rows", rows * k).reshape(rows, k)
    mixed[:, 1:] += mixed[:, :-1]
    mixed[:, 2:] += mixed[:, :-2]
    return (np.maximum(mixed, 0.0) * (0.25 + draw(f"{name} sizes", k))).astype(np.float32)


def nearest(w: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(w / scales[:, None]), -127, 127)


def gptq(weights: np.ndarray, scales: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Columns by falling diagonal of the moments, each error handed on by the inverse's factor."""
    k = len(moments)
    order = np.argsort(-np.diag(moments), kind="stable")
    w = weights[:, order].copy()
    h = moments[np.ix_(order, order)] + np.eye(k) * DAMPING * np.mean(np.diag(moments))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    q = np.zeros_like(w)
    for i in range(k):
        q[:, i] = np.clip(np.rint(w[:, i] / scales), -127, 127)
        error = (w[:, i] - q[:, i] * scales) / upper[i, i]
        w[:, i:] -= np.outer(error, upper[i, i:])
    return q[:, np.argsort(order)]


def rounding(name: str, rows: int, k: int, out: int, dead: int | None, times: float) -> dict:
    x = inputs(name, rows, k)
    if dead is not None:
        x[:, dead] = 0.0
    w = (bell(f"{name} weights", out * k).reshape(out, k)).astype(np.float32)
    scales = np.abs(w).max(axis=1) / np.float32(127) * np.float32(times)
    exact = x.astype(np.float64).T @ x.astype(np.float64)
    found = gptq(w.astype(np.float64), scales.astype(np.float64), exact)
    loss = lambda q: float(np.sum(((q * scales[:, None] - w).astype(np.float64) @ x.astype(np.float64).T) ** 2))
    compensated, plain = loss(found), loss(nearest(w.astype(np.float64), scales.astype(np.float64)))
    return {
        "name": name,
        "rows": rows,
        "k": k,
        "out": out,
        "dead": dead,
        "times": times,
        "rounded": found.astype(int).flatten().tolist(),
        "loss": compensated,
        "nearest_loss": plain,
    }


def scales(name: str, out: int, per: int, power: int) -> dict:
    w = (bell(f"{name} weights", out * per) ** power).reshape(out, per).astype(np.float32).astype(np.float64)
    full = np.abs(w).max(axis=1) / 127
    error = lambda row, scale: float(np.sum((row - nearest(row[None], np.array([scale]))[0] * scale) ** 2))
    factors = np.arange(500, 1001) / 1000
    least = [min(error(row, scale * factor) for factor in factors) for row, scale in zip(w, full)]
    plain = [error(row, scale) for row, scale in zip(w, full)]
    return {"name": name, "out": out, "per": per, "power": power, "errors": least, "full_errors": plain}


def balance() -> dict:
    """Equation 11 of arXiv:1906.04721, times what keeps the largest magnitude, to the nearest power of two."""
    x = (draw("inputs", 40) ** 8 * 20).astype(np.float32)
    w = (draw("readers", 40) ** 8).astype(np.float32)
    x[3], w[7] = 0.0, 0.0
    alive = (x > 0) & (w > 0)
    a, b = x[alive].astype(np.float64), w[alive].astype(np.float64)
    s = np.sqrt(a * b) / b
    s *= np.max(a / s) / np.max(a)
    factors = np.ones(len(x))
    factors[alive] = 2.0 ** np.clip(np.rint(np.log2(s)), -13, 13)
    return {"inputs": x.tolist(), "weights": w.tolist(), "factors": factors.tolist()}


def convolve(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """What ONNX Runtime makes of it without padding."""
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    graph = helper.make_graph([node], "g", [tensor("x", x.shape), tensor("w", w.shape)], [tensor("y", None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "w": w})[0]


def shift(name: str, out: int, channels: int, kernel: int, groups: int) -> dict:
    """Mean output of a layer on pictures of one colour each, less that of its quantized twin on theirs."""
    n, per = 16, channels // groups
    w = bell(f"{name} weights", out * per * kernel**2).reshape(out, per, kernel, kernel).astype(np.float32)
    quantized = (np.rint(w * 4) / 4).astype(np.float32)
    colours = draw(f"{name} colours", n * channels).reshape(n, channels, 1, 1).astype(np.float32)
    seen = (np.floor(colours * 16) / 16).astype(np.float32)
    spread = lambda c: np.broadcast_to(c, (n, channels, kernel, kernel)).copy()
    float_mean = convolve(spread(colours), w, groups).mean(axis=(0, 2, 3), dtype=np.float64)
    analytic = convolve(spread(colours), quantized, groups).mean(axis=(0, 2, 3), dtype=np.float64)
    empirical = convolve(spread(seen), quantized, groups).mean(axis=(0, 2, 3), dtype=np.float64)
    return {
        "name": name,
        "out": out,
        "channels": channels,
        "kernel": kernel,
        "groups": groups,
        "pictures": n,
        "analytic": (float_mean - analytic).tolist(),
        "empirical": (float_mean - empirical).tolist(),
    }


def main() -> None:
    told = {
        "rounding": [
            rounding("small", 64, 9, 5, None, 8.0),
            rounding("clipped", 300, 40, 6, None, 0.6),
            rounding("dead input", 100, 24, 4, 7, 8.0),
            rounding("fewer rows than inputs", 20, 32, 4, None, 8.0),
            rounding("blocks", 400, 150, 3, None, 8.0),
        ],
        "scales": [scales("normal", 4, 300, 1), scales("peaked", 2, 4000, 5), scales("kernels", 6, 9, 1)],
        "balance": balance(),
        "shift": [
            shift("pointwise", 6, 8, 1, 1),
            shift("dense", 4, 3, 3, 1),
            shift("depthwise", 5, 5, 3, 5),
            shift("grouped", 8, 12, 3, 4),
        ],
    }
    parts = []
    for name, value in told.items():
        entries = value if isinstance(value, list) else [value]
        text = ",\n".join(json.dumps(e) for e in entries)
        parts.append(f'"{name}": ' + (f"[\n{text}\n]" if isinstance(value, list) else text))
    pathlib.Path(__file__).with_name("layers.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
    for case in told["rounding"]:
        print(case["name"], case["loss"], case["nearest_loss"])


if __name__ == "__main__":
    main()
