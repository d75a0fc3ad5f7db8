"""Numbers from a name, so that script and test have the same and no file holds them."""

import numpy as np

MASK = (1 << 64) - 1


def fnv(data: bytes) -> int:
    """FNV-1a of 64 bits."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & MASK
    return h


def draw(name: str, count: int) -> np.ndarray:
    """Numbers of [0, 1), steps of 2^-24: SplitMix64, started at the name's hash."""
    with np.errstate(over="ignore"):
        x = np.uint64(fnv(name.encode())) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float64) / 2.0**24
