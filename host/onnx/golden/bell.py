"""Numbers from a name, so that script and test have the same and no file holds them."""

import pathlib
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[3] / "models/zoo/golden"))
from draw import draw  # noqa: E402


def bell(name: str, count: int) -> np.ndarray:
    """Nearly normal: the sum of twelve draws less six, which is exact."""
    return draw(name, 12 * count).reshape(count, 12).sum(axis=1) - 6.0
