"""Calibration as the tests of `host/train/src/decide.rs` expect it.

Versions: numpy 2.4.6, scipy 1.17.1. Run: `python host/train/tests/golden/decide.py`.
The logits are drawn by a generator that the test repeats: no file is needed.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cosine
from scipy.special import log_softmax, softmax
from scipy.stats import beta, norm

CLASSES, MASK = 5, (1 << 64) - 1


def draw(n, seed):
    """Logits of `n` pictures of a net that is twice as sure as it should be, and their classes."""
    state, logits, classes = seed, [], []

    def number():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        return np.float32((state >> 40) / (1 << 24))

    for _ in range(n):
        z = [np.float32(8) * number() for _ in range(CLASSES)]
        # The true class is drawn by the softmax of these, and told are twice the logits.
        p, u = softmax(np.array(z, np.float64)), float(number())
        classes.append(int(min((np.cumsum(p) < u).sum(), CLASSES - 1)))
        logits.append([np.float32(2) * v for v in z])
    return np.array(logits, np.float64), np.array(classes)


def nll(beta_, z, y):
    return -log_softmax(beta_ * z, axis=1)[np.arange(len(y)), y].mean()


def ece(p, right, bins=15):
    edge = np.clip(np.ceil(p * bins).astype(int), 1, bins)
    return sum(abs(p[edge == b].sum() - right[edge == b].sum()) for b in range(1, bins + 1)) / len(p)


first, second = draw(120, 1), draw(150, 2)
loss = lambda log: 120 * nll(np.exp(log), *first) + norm.logpdf(0, scale=0.25) - norm.logpdf(log, scale=0.25)
b = np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-12}).x)
t = np.float32(1 / b)
print("temperature", 1 / b)
# The features are the softer logits; directions go in steps of a seventh of their largest part.
features, classes = first[0] / 2, first[1]
direction = lambda v: np.round(v / np.abs(v).max() * 7)
sums = [features[classes == c].sum(axis=0) for c in range(CLASSES)]


def distance(i):
    means = [s - features[i] if c == classes[i] else s for c, s in enumerate(sums)]
    return min(cosine(features[i], direction(m)) for m in means)


distances = np.sort([distance(i) for i in range(120)])
print("distance", distances[int(np.ceil(121 * 0.95 - 1e-9)) - 1])
z, y = second
p = softmax(z / t, axis=1)
score = 1 - p[np.arange(len(y)), y]
# numpy's own name for the same rank.
q = np.quantile(score, np.ceil(151 * 0.9 - 1e-9) / 150, method="inverted_cdf")
print("set", 1 - q, "mean size", (p >= 1 - q - 1e-12).sum(axis=1).mean())
for name, temperature in (("before", 1.0), ("after", t)):
    s = softmax(z / temperature, axis=1)
    print("ece", name, ece(s.max(axis=1), s.argmax(axis=1) == y))
for wrong, n, delta in ((0, 22, 0.1), (3, 60, 0.0125), (20, 400, 0.05), (5, 5, 0.1)):
    print("worst risk", wrong, n, delta, 1.0 if wrong == n else beta.ppf(1 - delta, wrong + 1, n - wrong))
