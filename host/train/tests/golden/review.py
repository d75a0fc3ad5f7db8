"""Golden numbers of src/review: python3 -m venv v; v/bin/pip install numpy==2.4.6 scikit-learn==1.9.1

The risk at a coverage by sorting, the area as the mean over all coverages, the bins by scikit-learn's calibration_curve.
"""

import numpy as np
from sklearn.calibration import calibration_curve

n = 150
i = np.arange(n)
p = ((i * i * 37 + i * 11) % 199 + 1) / 200.0
right = (i * 7 + i * i * 3) % 10 < 6

# Ties are answered together: the risk of each is that at the last of them.
values = np.unique(p)[::-1]
risk = {v: 1 - right[p >= v].mean() for v in values}
print("AREA", repr(float(np.mean([risk[v] for v in p]))))
for share in (0.1, 0.3, 0.5, 0.8, 1.0):
    v = next(v for v in values if (p >= v).mean() >= share - 1e-12)
    print("RISKS", (share, float(risk[v])))
true, mean = calibration_curve(right, p - 1e-12, n_bins=15, strategy="uniform")
print("BINNED", [(round(float(m) + 1e-12, 9), round(float(t), 9)) for m, t in zip(mean, true)])
