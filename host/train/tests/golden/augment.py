"""What the steps of augment/ are compared with. Writes augment.png, the picture after each step below one another, and
prints the means that the tests have. Pillow 13.0.0, torch 2.14.1, torchvision 0.29.2, numpy 2.4.6."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode, RandAugment, RandomResizedCrop, v2
from torchvision.transforms import functional as F

SIDE = 16


def pattern(width, height):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channel = lambda c: (x * 7 + y * 13 + c * 31 + (x * y) % 251 + ((x * x + 3 * y * y) >> 4)) & 255
    return Image.fromarray(np.stack([channel(c) for c in range(3)], axis=2).astype(np.uint8))


def warped(m):
    """Each pixel from m about the centre, in a picture that goes on as its mirror image."""
    a, b, c, d, e, f = m
    middle = 1.5 * SIDE
    wide = Image.fromarray(np.pad(np.asarray(picture), ((SIDE, SIDE), (SIDE, SIDE), (0, 0)), "symmetric"))
    about = (a, b, middle - a * middle - b * middle + c, d, e, middle - d * middle - e * middle + f)
    return centre(wide.transform(wide.size, Image.Transform.AFFINE, about, Image.Resampling.BILINEAR))


def rotated(degrees):
    wide = Image.fromarray(np.pad(np.asarray(picture), ((SIDE, SIDE), (SIDE, SIDE), (0, 0)), "symmetric"))
    return centre(F.rotate(wide, degrees, InterpolationMode.BILINEAR))


def centre(wide):
    return wide.crop((SIDE, SIDE, 2 * SIDE, 2 * SIDE))


def tensor(step, image):
    return F.to_pil_image(step(F.pil_to_tensor(image)))


picture = pattern(SIDE, SIDE)
dim = Image.fromarray((np.asarray(picture) >> 1) + 20)
grey = Image.new("RGB", picture.size, (128, 128, 128))
steps = [
    ImageOps.mirror(picture),
    ImageOps.flip(picture),
    picture.transpose(Image.Transpose.ROTATE_90),
    picture.transpose(Image.Transpose.ROTATE_270),
    rotated(20.0),
    warped((1, 0.25, 0, 0, 1, 0)),
    warped((1, 0, -3.5, 0, 1, 2.25)),
    ImageEnhance.Brightness(picture).enhance(1.3),
    Image.blend(grey, picture, 0.7),
    ImageEnhance.Contrast(picture).enhance(1.4),
    ImageEnhance.Color(picture).enhance(0.6),
    tensor(lambda t: F.adjust_hue(t, 0.1), picture),
    tensor(lambda t: F.adjust_hue(t, -0.35), picture),
    tensor(lambda t: F.gaussian_blur(t, [9, 9], [1.2, 1.2]), picture),
    ImageEnhance.Sharpness(picture).enhance(1.8),
    ImageOps.posterize(picture, 3),
    ImageOps.solarize(picture, 100),
    ImageOps.autocontrast(dim),
    pattern(40, 30).crop((3, 2, 36, 24)).resize((SIDE, SIDE), Image.Resampling.BILINEAR),
]

# Three parts of one pattern, mixed.
batch = torch.stack([F.pil_to_tensor(pattern(3 * SIDE, SIDE).crop((i * SIDE, 0, (i + 1) * SIDE, SIDE))) for i in range(3)])
for kind in (v2.MixUp(alpha=1.0, num_classes=3), v2.CutMix(alpha=1.0, num_classes=3)):
    torch.manual_seed(3)
    params = kind.make_params([batch]) | {"labels": None, "batch_size": 3}
    steps += [F.to_pil_image(p.round().to(torch.uint8)) for p in kind.transform(batch.float(), params)]
    print(type(kind).__name__, params)

large = Image.fromarray((np.asarray(pattern(3 * SIDE, 3 * SIDE)) >> 1) + 20)
strip = np.concatenate([np.asarray(s) for s in steps] + [np.asarray(ImageOps.equalize(large)).reshape(-1, SIDE, 3)])
Image.fromarray(strip).save(Path(__file__).with_suffix(".png"), optimize=True)

space = RandAugment()._augmentation_space(31, (SIDE, SIDE))
for magnitude in (9, 30):
    at = {name: float(values[magnitude]) if values.ndim else 0.0 for name, (values, _) in space.items()}
    print("RandAugment", magnitude, at)

for size, scale in [((200, 150), (0.08, 1.0)), ((256, 256), (0.3, 1.0)), ((400, 100), (0.5, 1.0))]:
    torch.manual_seed(0)
    image, sums = Image.new("RGB", size), np.zeros(4)
    n = 50_000
    for _ in range(n):
        i, j, h, w = RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3))
        sums += np.array([j, i, w, h]) / n
    print(size, scale, "mean x, y, width, height:", [f"{s:.2f}" for s in sums])
