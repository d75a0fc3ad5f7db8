"""Makes alike.zip: generated leaves in train/, and what Pillow makes of them in test/, under the number of the leaf.

    cargo run --release -p graft-leaves --example contact_sheet -- leaves /tmp/sheet.png 128 2 40
    python3 -m venv v; v/bin/pip install pillow==13.0.0; v/bin/python host/train/tests/archives/alike.py /tmp/sheet.png
"""

import io
import pathlib
import sys
import zipfile

from PIL import Image, ImageEnhance

SIZE, STEP = 128, 130


def jpeg(picture, quality=80):
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def crop(picture, share, x, y):
    side = round(SIZE * share)
    left, top = round((SIZE - side) * x), round((SIZE - side) * y)
    return picture.crop((left, top, left + side, top + side))


COPIES = {
    "encoded": lambda p: jpeg(p, 30),
    "half": lambda p: jpeg(p.resize((64, 64), Image.LANCZOS)),
    "lighter": lambda p: jpeg(ImageEnhance.Brightness(p).enhance(1.3)),
    "grey": lambda p: jpeg(ImageEnhance.Contrast(p.convert("L")).enhance(0.8)),
    "mirrored": lambda p: jpeg(p.transpose(Image.FLIP_LEFT_RIGHT)),
    "turned": lambda p: jpeg(p.transpose(Image.ROTATE_90), 60),
    "edge": lambda p: jpeg(crop(p, 0.94, 0.5, 0.5)),
    "cropped": lambda p: jpeg(crop(p, 0.78, 0.2, 0.7)),
    "stretched": lambda p: jpeg(p.resize((150, 100), Image.BICUBIC)),
}

sheet = Image.open(sys.argv[1]).convert("RGB")
target = pathlib.Path(__file__).with_name("alike.zip")
with zipfile.ZipFile(target, "w") as archive:

    def add(name, data):
        archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)

    number = 0
    for row in range(0, sheet.height // STEP):
        for column in range(2):
            leaf = sheet.crop((column * STEP, row * STEP, column * STEP + SIZE, row * STEP + SIZE))
            add(f"train/leaf/{number:02}.jpg", jpeg(leaf, 85))
            # Each leaf is copied in a third of the ways, so that the archive stays small.
            for i, (name, make) in enumerate(COPIES.items()):
                if i % 3 == number % 3:
                    add(f"test/leaf/{number:02}-{name}.jpg", make(leaf))
            number += 1
print(target, target.stat().st_size)
