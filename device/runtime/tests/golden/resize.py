"""Writes resize.json: what Pillow and torchvision's size rules make of generated pictures.

Run: python resize.py > resize.json (versions in README.md).
"""

import json

import numpy as np
from PIL import Image


def picture(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.int64)
    value = x * 7 + y * 13 + c * 31 + (x * y) % 251 + ((x * x + 3 * y * y) >> 4)
    return Image.fromarray((value & 255).astype(np.uint8), "RGB")


def preprocess(image, shorter, crop):
    width, height = image.size
    if width <= height:
        size = (shorter, int(shorter * height / width))
    else:
        size = (int(shorter * width / height), shorter)
    image = image.resize(size, Image.BILINEAR)
    top = int(round((size[1] - crop) / 2.0))
    left = int(round((size[0] - crop) / 2.0))
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


CASES = [
    # width, height, shorter, crop
    (13, 9, 6, 4), (9, 13, 11, 8), (8, 8, 8, 8), (40, 31, 10, 7), (31, 40, 10, 7), (257, 64, 12, 8),
    (256, 256, 256, 224), (500, 333, 256, 224), (333, 500, 256, 224), (640, 481, 256, 224), (100, 75, 256, 224),
    (1023, 769, 110, 96), (2000, 60, 256, 224), (229, 228, 227, 224),
]

cases = []
for width, height, shorter, crop in CASES:
    data = preprocess(picture(width, height), shorter, crop).tobytes()
    case = {"width": width, "height": height, "resize_shorter": shorter, "crop": crop, "fnv1a64": fnv(data)}
    if crop <= 8:
        case["pixels"] = list(data)
    cases.append(case)
print("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]")
