"""Makes joined.json: answers of tiles joined pixel by pixel by numpy, and spots of them by scipy.

python3 -m venv v && v/bin/pip install numpy==2.4.6 scipy==1.17.1 && v/bin/python joined.py
"""

import json
import pathlib

import numpy as np
from scipy import ndimage


def positions(length, side, step):
    last = length - side
    found = list(range(0, last, step)) + [last]
    return found


def case(seed, width, height, side, overlap, above):
    rng = np.random.default_rng(seed)
    step = max(1, round(side * (1 - overlap)))
    sums, count, strange = np.zeros((2, height, width)), np.zeros((height, width)), np.zeros((height, width))
    tiles = []
    for y in positions(height, side, step):
        for x in positions(width, side, step):
            kind = rng.choice(["known", "known", "known", "known", "unfamiliar", "empty"])
            # Blobs, so that spots hang together.
            p = float(np.round(0.5 + 0.5 * np.sin(x / 40 + seed) * np.cos(y / 31) * rng.uniform(0.7, 1), 3))
            tiles.append({"x": x, "y": y, "kind": str(kind), "p": p})
            window = np.s_[y : y + side, x : x + side]
            if kind == "known":
                sums[(slice(None), *window)] += np.array([p, 1 - p])[:, None, None]
                count[window] += 1
            elif kind == "unfamiliar":
                strange[window] += 1
    rows, columns = -(-height // step), -(-width // step)
    cells = np.full((rows, columns), np.nan)
    known = np.empty((rows, columns), dtype=int)
    for r in range(rows):
        for c in range(columns):
            window = np.s_[r * step : (r + 1) * step, c * step : (c + 1) * step]
            weight, odd = count[window].sum(), strange[window].sum()
            known[r, c] = 0 if weight + odd == 0 else 1 if odd > weight else 2
            if known[r, c] == 2:
                cells[r, c] = sums[0][window].sum() / weight
    hot = np.nan_to_num(cells, nan=0.0) >= above
    labels, found = ndimage.label(hot, structure=np.ones((3, 3)))
    pixels = np.repeat(np.repeat(labels, step, 0), step, 1)[:height, :width]
    spots = []
    for label in range(1, found + 1):
        y, x = ndimage.center_of_mass(pixels == label)
        spots.append(
            {
                "cells": int((labels == label).sum()),
                "area": int((pixels == label).sum()),
                # Middles of pixels are at halves.
                "x": x + 0.5,
                "y": y + 0.5,
                "peak": float(cells[labels == label].max()),
                "mean": float(cells[labels == label].mean()),
            }
        )
    return {
        "width": width, "height": height, "side": side, "overlap": overlap, "above": above, "tiles": tiles,
        "known": known.ravel().tolist(), "cells": np.nan_to_num(cells, nan=0.0).ravel().tolist(), "spots": spots,
    }


cases = [
    case(1, 400, 300, 64, 0.25, 0.6),
    case(2, 301, 203, 50, 0.5, 0.5),
    case(3, 130, 500, 40, 0.0, 0.7),
    case(4, 97, 64, 64, 0.25, 0.4),
    case(5, 150, 150, 30, 0.8, 0.55),
]
(pathlib.Path(__file__).parent / "joined.json").write_text(json.dumps(cases) + "\n")
print([len(c["spots"]) for c in cases])
