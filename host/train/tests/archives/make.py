"""Makes the archives that the tests of dataset/ read, with Python 3's zipfile and tarfile and Pillow 13.0.0: leaves.zip
(deflated, stored and ZIP64 members), leaves-pax.tar, leaves-gnu.tar and manifest.zip. The same pictures are in each."""

import io
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
LONG = "long-" * 24


def png(seed):
    picture = Image.new("RGB", (9, 8))
    picture.putdata([(seed, x * 20, y * 30) for y in range(8) for x in range(9)])
    data = io.BytesIO()
    picture.save(data, "png")
    return data.getvalue()


FILES = {
    "photos/healthy/1.png": png(1),
    "photos/healthy/2.png": png(2),
    f"photos/rust/{LONG}/3.png": png(3),
    "photos/rust/blätter/4.png": png(4),
    "photos/rust/notes.txt": b"taken in May",
    "photos/rust/.thumbs/5.png": png(5),
    "__MACOSX/photos/healthy/1.png": png(6),
    "photos/readme.txt": b"leaves",
}
WHEN = (2026, 5, 1, 12, 0, 0)


def write_zip(name, files):
    with zipfile.ZipFile(HERE / name, "w") as archive:
        folder = zipfile.ZipInfo("photos/empty/", WHEN)
        archive.writestr(folder, b"")
        for index, (path, data) in enumerate(files.items()):
            info = zipfile.ZipInfo(path, WHEN)
            info.compress_type = zipfile.ZIP_STORED if index % 2 else zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=index == 2) as member:
                member.write(data)


def write_tar(name, form):
    with tarfile.open(HERE / name, "w", format=form) as archive:
        folder = tarfile.TarInfo("photos/empty")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for path, data in FILES.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("photos/healthy/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


write_zip("leaves.zip", FILES)
rows = "file,label,group,split\nhealthy/1.png,a,f1,train\nhealthy/2.png,b,f2,train\nrust/blätter/4.png,b,f2,test\n"
write_zip("manifest.zip", FILES | {"photos/labels.csv": rows.encode()})
write_tar("leaves-pax.tar", tarfile.PAX_FORMAT)
write_tar("leaves-gnu.tar", tarfile.GNU_FORMAT)
