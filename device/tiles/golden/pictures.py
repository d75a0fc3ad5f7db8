"""Makes pictures/ and pictures.json: files of many kinds, and what Pillow and tifffile read of them.

python3 -m venv v && v/bin/pip install numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 && v/bin/python pictures.py
"""

import json
import pathlib
import struct

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

HERE = pathlib.Path(__file__).parent
OUT = HERE / "pictures"
W, H = 37, 571  # odd, and more than two bands of 256 rows


def fnv(array):
    digest = 0xCBF29CE484222325
    for byte in np.ascontiguousarray(array, dtype=np.uint8).tobytes():
        digest = ((digest ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{digest:016x}"


def field(width=W, height=H, seed=5):
    """Something like a field: smooth shades with edges and a little noise."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    rng = np.random.default_rng(seed)
    planes = [
        128 + 90 * np.sin(x / 9 + k) * np.cos(y / 23 - k) + 30 * ((x // 7 + y // 11 + k) % 2) + rng.normal(0, 4, x.shape)
        for k in range(3)
    ]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


golden = {}


def note(name, rgb, clear=0):
    rgb = np.asarray(rgb, dtype=np.uint8)
    stripes = [float(s.mean()) for s in np.array_split(rgb.astype(float), 16, axis=0)]
    golden[name] = {"width": rgb.shape[1], "height": rgb.shape[0], "fnv1a64": fnv(rgb), "stripes": stripes, "clear": int(clear)}


def jpeg(name, picture, **how):
    Image.fromarray(picture).save(OUT / name, quality=75, **how)
    note(name, Image.open(OUT / name).convert("RGB"))


def over_white(rgb, alpha):
    a = alpha.astype(int)[..., None]
    return ((rgb.astype(int) * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def png(name, image, rgb, clear=0, **how):
    image.save(OUT / name, **how)
    note(name, rgb, clear)


def tiff(name, array, rgb, clear=0, **how):
    tifffile.imwrite(OUT / name, array, metadata=None, **how)
    note(name, rgb, clear)


def main():
    OUT.mkdir(exist_ok=True)
    rgb = field()
    grey = rgb[..., 1]
    jpeg("444.jpg", rgb, subsampling=0)
    jpeg("422.jpg", rgb, subsampling=1)
    jpeg("420.jpg", rgb, subsampling=2)
    jpeg("420-optimized.jpg", rgb, subsampling=2, optimize=True)
    jpeg("420-restarts.jpg", rgb, subsampling=2, restart_marker_blocks=2)
    jpeg("420-restart-rows.jpg", rgb, subsampling=2, restart_marker_rows=1)
    jpeg("grey.jpg", grey)
    jpeg("progressive.jpg", rgb, progressive=True)
    jpeg("wide.jpg", field(571, 37), subsampling=2)
    for way in ("440", "411"):
        (OUT / f"{way}.jpg").write_bytes(imagecodecs.jpeg_encode(rgb, level=75, subsampling=way))
        note(f"{way}.jpg", Image.open(OUT / f"{way}.jpg").convert("RGB"))
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg("turned.jpg", rgb, subsampling=2, exif=exif)
    Image.fromarray(rgb).convert("CMYK").resize((16, 16)).save(OUT / "cmyk.jpg")

    # These are large and are read 64 rows at a time: fewer will do.
    rgb, grey = rgb[:171], grey[:171]
    png("rgb.png", Image.fromarray(rgb), rgb)
    png("grey.png", Image.fromarray(grey), np.stack([grey] * 3, -1))
    alpha = (np.add.outer(np.arange(171), np.arange(W)) % 256).astype(np.uint8)
    clear = (alpha < 128).sum()
    png("rgba.png", Image.fromarray(np.dstack([rgb, alpha])), over_white(rgb, alpha), clear)
    few = Image.fromarray(rgb).quantize(9)
    png("palette.png", few, few.convert("RGB"))
    bits = Image.fromarray(np.where(grey > 128, 255, 0).astype(np.uint8)).convert("1")
    png("bits.png", bits, np.stack([np.array(bits.convert("L"))] * 3, -1))
    (OUT / "interlaced.png").write_bytes(interlace(rgb))
    note("interlaced.png", Image.open(OUT / "interlaced.png").convert("RGB"))
    Image.fromarray(rgb.astype(np.uint16)[..., 0] * 257).resize((16, 16)).save(OUT / "sixteen.png")

    tiff("raw.tif", rgb, rgb, photometric="rgb")
    tiff("big-endian.tif", rgb, rgb, photometric="rgb", byteorder=">", rowsperstrip=7)
    tiff("deflate.tif", rgb, rgb, photometric="rgb", compression="zlib", predictor=True, rowsperstrip=9)
    tiff("lzw.tif", rgb, rgb, photometric="rgb", compression="lzw", rowsperstrip=100)
    tiff("tiled.tif", rgb, rgb, photometric="rgb", compression="zlib", tile=(32, 16))
    tiff("big.tif", rgb, rgb, photometric="rgb", compression="zlib", tile=(64, 64), bigtiff=True)
    tiff("grey.tif", grey, np.stack([grey] * 3, -1), photometric="minisblack", compression="zlib", tile=(16, 16))
    tiff("negative.tif", 255 - grey, np.stack([grey] * 3, -1), photometric="miniswhite", compression="zlib", rowsperstrip=50)
    rgba = np.dstack([rgb, alpha])
    how = dict(photometric="rgb", compression="zlib", tile=(32, 32))
    tiff("rgba.tif", rgba, over_white(rgb, alpha), clear, extrasamples=["unassalpha"], **how)
    tiff("bands.tif", np.dstack([rgb, grey, grey]), rgb, extrasamples=["unspecified"] * 2, **how)
    hole = rgb.copy()
    hole[60:120, 5:20] = 0
    nodata = (hole == 0).all(-1).sum()
    tiff("nodata.tif", hole, hole, nodata, extratags=[(42113, "s", 2, "0", True)], **how)
    # tifffile wants it a colour at a time; decoded by itself.
    tifffile.imwrite(OUT / "jpeg.tif", rgb, photometric="rgb", compression="jpeg", tile=(64, 48), metadata=None, compressionargs={"level": 85})
    note("jpeg.tif", tifffile.imread(OUT / "jpeg.tif"))
    # What is refused.
    small = rgb[:16, :16]
    tifffile.imwrite(OUT / "sixteen.tif", small.astype(np.uint16), photometric="rgb", metadata=None)
    tifffile.imwrite(OUT / "planes.tif", np.moveaxis(small, -1, 0), photometric="rgb", planarconfig="separate", metadata=None)
    Image.fromarray(small).quantize(5).save(OUT / "palette.tif")
    (HERE / "pictures.json").write_text(json.dumps(golden, indent=1) + "\n")


def interlace(rgb):
    """Adam7 by hand, as neither library writes it; filter 0."""
    import zlib

    height, width, _ = rgb.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    data = b""
    for x, y, dx, dy in passes:
        part = rgb[y::dy, x::dx]
        if part.size:
            data += b"".join(b"\0" + line.tobytes() for line in part)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


main()
