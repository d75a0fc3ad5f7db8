#!/usr/bin/env python3
"""Hot spots found by `graft map` in drone photographs into which leaves of known classes were put.

Fits a head on PlantVillage (15 classes of 40 photos), calibrates it on half of the test photos, and puts the other half in blocks of 3 by
3 photos of one class into the three drone photographs, at places that have nothing to do with the grid of tiles. A spot is right where
its middle lies in a block of its class; a block is found where a right spot is. What is no leaf is to be unfamiliar. These are no real
fields: there are none with labels here. Needs Pillow.

    python scripts/field/spots.py --graft target/release/graft --data ../shared/data \\
        --weights ../shared/weights/mobilenet_v2_1.0_224.safetensors
"""

import argparse
import json
import os
import random
import shutil
from pathlib import Path

from loop import run
from PIL import Image

PHOTO = 256
BLOCK = 3 * PHOTO
BLOCKS = 5


def place(rng, width, height, blocks):
    """A corner of a block that keeps a photo's side from all others."""
    while True:
        x, y = rng.randrange(width - BLOCK), rng.randrange(height - BLOCK)
        if all(max(abs(x - b["x"]), abs(y - b["y"])) > BLOCK + PHOTO // 4 for b in blocks):
            return x, y


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--above", default="0.5")
    parser.add_argument("--out", type=Path, default=Path("target/field/spots"))
    args = parser.parse_args()
    graft, out, rng = args.graft.resolve(), args.out.resolve(), random.Random(args.seed)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ.setdefault("GRAFT_CACHE", str(out / "cache"))
    lab = args.data.resolve() / "plantvillage15"
    held = {}
    for folder in sorted((lab / "test").iterdir()):
        photos = sorted(folder.glob("*"))
        rng.shuffle(photos)
        half = len(photos) // 2
        held[folder.name] = photos[half:]
        (out / "calibrate" / folder.name).mkdir(parents=True)
        for photo in photos[:half]:
            shutil.copy(photo, out / "calibrate" / folder.name)
    run(graft, "train", lab / "train", "--model", "mobilenet_v2", "--weights", args.weights, "--recipe", "head", "--out", out / "run")
    run(graft, "export", out / "run", "--out", out / "leaves.onnx")
    run(graft, "key", "new", "--out", out / "key")
    run(graft, "pack", out / "leaves.onnx", "--key", out / "key", "--golden", out / "calibrate", "--calibrate", out / "calibrate",
        "--out", out / "leaves.graft")

    truth = {}
    for path in sorted((args.data / "drone-seneca").glob("*.jpg")):
        picture = Image.open(path)
        exif = picture.info["exif"]
        picture = picture.convert("RGB")
        blocks = []
        for _ in range(BLOCKS):
            x, y = place(rng, picture.width, picture.height, blocks)
            name = rng.choice(sorted(held))
            for n in range(9):
                photo = Image.open(rng.choice(held[name])).convert("RGB").resize((PHOTO, PHOTO))
                picture.paste(photo, (x + n % 3 * PHOTO, y + n // 3 * PHOTO))
            blocks.append({"x": x, "y": y, "class": name})
        picture.save(out / path.name, quality=92, exif=exif)
        truth[path.name] = blocks

    tiles = unfamiliar = right = spots = found = total = leaf_spots = 0
    maps = out / "maps"
    summary = json.loads(run(graft, "map", out / "leaves.graft", *(out / n for n in truth), "--out", maps, "--above", args.above, "--json"))
    features = json.loads((maps / "spots.geojson").read_text())["features"]
    for name, blocks in truth.items():
        hit = [False] * len(blocks)
        for spot in (f["properties"] for f in features if Path(f["properties"]["picture"]).name == name):
            inside = [i for i, b in enumerate(blocks) if 0 <= spot["x"] - b["x"] < BLOCK and 0 <= spot["y"] - b["y"] < BLOCK]
            of_class = [i for i in inside if blocks[i]["class"] == spot["class"]]
            spots, right, leaf_spots = spots + 1, right + bool(of_class), leaf_spots + bool(inside)
            for i in of_class:
                hit[i] = True
        found, total = found + sum(hit), total + len(hit)
    for chart in summary["pictures"]:
        tiles, unfamiliar = tiles + chart["tiles"], unfamiliar + chart["unfamiliar"]
    print(f"{tiles} tiles, {unfamiliar} of them unfamiliar")
    print(f"precision: {right} of {spots} spots lie in a block of their class, {leaf_spots} in a block at all")
    print(f"recall: {found} of {total} blocks have a spot of their class")
    print(f"maps and spots: {maps}")


if __name__ == "__main__":
    main()
