"""Makes places.json: positions by PROJ, and photographs' EXIF by Pillow.

python3 -m venv v && v/bin/pip install pyproj==3.7.2 pillow==13.0.0 && v/bin/python places.py
"""

import json
import math
import pathlib

from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from pyproj import Geod, Transformer

projected = []
for epsg, places in {
    32617: [(-83.30449, 41.03621), (-81, 0.0001), (-78.2, 71.5)],
    32633: [(14.99, 52.1), (12.1, 47.9)],
    32755: [(148.2, -35.3), (144.1, -41.9)],
    25832: [(9.3, 53.4)],
    3857: [(-83.30449, 41.03621), (11.5, -48.1)],
    4326: [(36.82, -1.29)],
}.items():
    turn = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True)
    for longitude, latitude in places:
        x, y = turn.transform(longitude, latitude)
        # Metres of a unit of the coordinates, by a geodesic.
        geod = Geod(ellps="WGS84")
        back = Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True)
        unit = 1e-5 if epsg == 4326 else 1.0
        east = geod.inv(*back.transform(x, y), *back.transform(x + unit, y))[2] / unit
        north = geod.inv(*back.transform(x, y), *back.transform(x, y + unit))[2] / unit
        projected.append({"epsg": epsg, "x": x, "y": y, "longitude": longitude, "latitude": latitude, "east": east, "north": north})


def rational(value):
    degrees = int(abs(value))
    minutes = int((abs(value) - degrees) * 60)
    seconds = ((abs(value) - degrees) * 60 - minutes) * 60
    return (IFDRational(degrees), IFDRational(minutes), IFDRational(round(seconds * 1_000_000), 1_000_000))


def exif(latitude, longitude, focal=None, direction=None):
    block = Image.Exif()
    gps = block.get_ifd(0x8825)
    gps.update({1: "N" if latitude >= 0 else "S", 2: rational(latitude), 3: "E" if longitude >= 0 else "W", 4: rational(longitude)})
    if direction is not None:
        gps.update({16: direction[0], 17: IFDRational(round(direction[1] * 100), 100)})
    if focal is not None:
        block.get_ifd(0x8769)[0xA405] = focal
    return block.tobytes().removeprefix(b"Exif\0\0").hex()


def dji(altitude, yaw, pitch):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
        f'drone-dji:AbsoluteAltitude="+310.1" drone-dji:RelativeAltitude="{altitude:+.2f}" '
        f'drone-dji:GimbalYawDegree="{yaw:+.2f}" drone-dji:GimbalPitchDegree="{pitch:+.2f}"/></rdf:RDF></x:xmpmeta>'
    )


def photograph(name, width, height, latitude, longitude, points, altitude=None, yaw=None, pitch=-90.0, focal=None, given=(None, None), **how):
    """Points of a photograph that looks straight down, placed by hand."""
    gsd, heading = given
    # The diagonal of 35 mm film is to its focal length as that of the picture's ground is to the height.
    if gsd is None and altitude and focal:
        gsd = altitude / focal * math.hypot(36, 24) / math.hypot(width, height)
    if heading is None:
        heading = yaw if yaw is not None else how.get("direction", ("", None))[1]
    geod = Geod(ellps="WGS84")
    placed = []
    for x, y in points:
        right, up = (x - width / 2) * gsd, (height / 2 - y) * gsd
        bearing = math.degrees(math.atan2(right, up)) + heading
        east, north, _ = geod.fwd(longitude, latitude, bearing, math.hypot(right, up))
        placed.append({"x": x, "y": y, "longitude": east, "latitude": north})
    xmp = dji(altitude, yaw, pitch) if altitude is not None else None
    return {
        "name": name, "width": width, "height": height, "exif": exif(latitude, longitude, focal, **how), "xmp": xmp,
        "latitude": latitude, "longitude": longitude, "gsd": gsd, "heading": heading,
        "given": {"gsd": given[0], "heading": given[1]}, "points": placed,
    }


corners = [(0, 0), (4000, 0), (2000, 1500), (3100, 2710), (0, 3000)]
photographs = [
    photograph("DJI, north", 4000, 3000, 41.03621, -83.30449, corners, altitude=60.5, yaw=0.0, focal=24),
    photograph("DJI, turned", 4000, 3000, -1.28, 36.82, corners, altitude=118.2, yaw=-128.4, focal=24),
    photograph("the user's numbers", 4000, 3000, 52.2, 5.6, corners, given=(0.031, 77.0)),
    photograph("EXIF's direction", 4000, 3000, 67.9, 20.2, corners, altitude=None, given=(0.02, None), direction=("T", 211.25)),
]
out = {"projected": projected, "photographs": photographs}
(pathlib.Path(__file__).parent / "places.json").write_text(json.dumps(out, indent=1) + "\n")
