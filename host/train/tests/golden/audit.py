"""Golden numbers of src/audit: python3 -m venv v; v/bin/pip install numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0 scikit-learn==1.9.1

Prints the constants that stand in the tests of gray.rs, quality.rs and neighbours.rs.
"""

import numpy as np
from scipy import ndimage
from skimage.measure import blur_effect
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler


def drawn(width, height):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return ((x * x // 7 + y * y // 5 + 3 * x * y // 11 + (x ^ y) * 5) % 256).astype(np.float64)


a = drawn(23, 17)
detail = a - ndimage.uniform_filter(a, 5, mode="nearest")
print("DETAIL", [(x, y, round(float(detail[y, x]), 4)) for x, y in [(0, 0), (22, 16), (11, 8), (1, 15), (20, 3)]])

blur = []
for width, height, radius in [(80, 64, 0), (97, 70, 0), (80, 64, 2), (80, 64, 5)]:
    a = drawn(width, height)
    if radius:
        # The mean over 2 * radius + 1 pixels of each row, then rows and columns exchanged.
        a = ndimage.uniform_filter1d(a, 2 * radius + 1, axis=1, mode="reflect").T
    blur.append((width, height, radius, round(float(blur_effect(a, h_size=11)), 6)))
print("BLUR", blur)

i = np.arange(240)
vectors = ((i * i * 31 + i * 17) % 101).reshape(40, 6).astype(np.float64)
rows = StandardScaler().fit_transform(vectors)
_, nearest = NearestNeighbors(n_neighbors=5, metric="cosine").fit(rows).kneighbors(rows)
print("NEAREST", [(r, [int(n) for n in nearest[r] if n != r][:4]) for r in (0, 7, 19, 39)])
