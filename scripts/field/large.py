#!/usr/bin/env python3
"""The memory that `graft map` takes on large pictures.

Makes a picture of --side pixels a side of the drone's photographs, mirrored side by side, as JPEG, PNG, and TIFF in tiles and in
strips, in a folder that is removed at the end, and maps it, a photograph as it is, and one of 256 pixels for comparison. Tells the peak
of resident memory (VmHWM) and the time of each, and what the picture alone would take. Needs numpy, Pillow and
tifffile with imagecodecs.

    python scripts/field/large.py --graft target/release/graft --model leaves.onnx --data ../shared/data --side 20000
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

Image.MAX_IMAGE_PIXELS = None


def mosaic(photographs, side):
    picture = np.empty((side, side, 3), dtype=np.uint8)
    parts = [np.asarray(Image.open(p).convert("RGB")) for p in photographs]
    height, width, _ = parts[0].shape
    for row in range(0, side, height):
        for column in range(0, side, width):
            part = parts[(row // height + column // width) % len(parts)]
            part = part[:: -1 if row // height % 2 else 1, :: -1 if column // width % 2 else 1]
            part = part[: side - row, : side - column]
            picture[row : row + height, column : column + width] = part
    return picture


def measured(graft, model, picture, out, *options):
    command = [graft, "map", model, picture, "--out", out, "--json", *options]
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    # What `wait4` tells counts this script's own pages too, which a child begins with.
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            name = lines[0].split()[1]
            peak = max([peak] + [int(l.split()[1]) for l in lines if l.startswith("VmHWM") and name == graft.name[:15]])
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"graft map {picture}: exit code {process.returncode}\n{process.stderr.read()}")
    chart = json.loads(process.stdout.read())["pictures"][0]
    return peak / 1024, chart["seconds"], chart["tiles"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--tile", type=int, default=448)
    parser.add_argument("--temp", type=Path, help="where the folder is made")
    args = parser.parse_args()
    photographs = sorted((args.data / "drone-seneca").glob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=args.temp) as folder:
        folder = Path(folder)

        def tell(name, picture, pixels, *options):
            peak, seconds, tiles = measured(args.graft, args.model, picture, folder / "maps", *options)
            whole = pixels * 3 / 2**20
            print(f"{name:32} {peak:7.0f} MB peak  {whole:7.0f} MB of pixels  {tiles:6} tiles  {seconds:6.1f} s", flush=True)

        part = Image.open(photographs[0]).convert("RGB")
        part.crop((0, 0, 256, 256)).save(folder / "small.png")
        tell("256x256 PNG", folder / "small.png", 256 * 256)
        tell(f"{part.width}x{part.height} JPEG", photographs[0], part.width * part.height)
        picture = mosaic(photographs, args.side)
        size, tile = f"{args.side}x{args.side}", str(args.tile)

        def large(name, save):
            path = folder / f"large{name.split()[0]}"
            save(path)
            tell(f"{size} {name}", path, args.side**2, "--tile", tile)
            path.unlink()

        image = Image.fromarray(picture)
        large(".jpg 4:2:0", lambda p: image.save(p, quality=85))
        large(".png", lambda p: image.save(p, compress_level=1))
        how = dict(photometric="rgb", metadata=None, compression="zlib", compressionargs={"level": 1})
        large(".tif in tiles of 256", lambda p: tifffile.imwrite(p, picture, tile=(256, 256), **how))
        raw = dict(photometric="rgb", metadata=None, rowsperstrip=64)
        large(".tif in strips, raw", lambda p: tifffile.imwrite(p, picture, **raw))


if __name__ == "__main__":
    main()
