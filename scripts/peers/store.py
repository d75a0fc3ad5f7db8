"""Bytes that a day of predictions costs a card: lines in a file, as graftd's store has them, beside SQLite; prints both.

    store.py FOLDER

49,037 predictions in batches of half a minute, each batch on the disk before the next: appended lines of JSON with fdatasync, and rows in
SQLite with a write-ahead log and synchronous=FULL. Counted by Linux (/proc/self/io, write_bytes: whole blocks). FOLDER must lie on a disk.
"""

import json
import os
import pathlib
import random
import sqlite3
import sys
import tempfile

ROWS, BATCHES = 49_037, 24 * 60 * 2
NAMES = ("id", "unix_ms", "source", "label", "probability", "second", "second_probability", "reason", "model", "value", "latency_ms", "frames")


def row(i):
    p = random.random() / 5
    doubt = "unsure: leaf_rust or phoma" if i % 3 == 0 else ""
    return (i, 1764000000000 + i * 1760, f"cam/{i:06}.jpg", "leaf_rust", 0.75 + p, "phoma", p, doubt, "leaves", p, 23.4, 3)


def batches():
    for b in range(BATCHES):
        yield [row(i) for i in range(b * ROWS // BATCHES, (b + 1) * ROWS // BATCHES)]


def by_lines(folder):
    with open(folder / "log", "wb", buffering=0) as log:
        for rows in batches():
            log.write(b"".join(json.dumps(dict(zip(NAMES, r))).encode() + b"\n" for r in rows))
            os.fdatasync(log.fileno())


def by_sqlite(folder):
    store = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    store.execute("pragma journal_mode=wal")
    store.execute("pragma synchronous=full")
    store.execute(f"create table t ({NAMES[0]} integer primary key, {', '.join(NAMES[1:])})")
    for rows in batches():
        store.execute("begin")
        store.executemany(f"insert into t values ({','.join('?' * len(NAMES))})", rows)
        store.execute("commit")
    store.close()


def written():
    return int(dict(line.split(": ") for line in open("/proc/self/io", encoding="utf-8"))["write_bytes"])


def main():
    for name, store in (("lines", by_lines), (f"SQLite {sqlite3.sqlite_version}", by_sqlite)):
        with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
            before = written()
            store(pathlib.Path(folder))
            print(f"{name}: {(written() - before) / 1e6:.1f} MB written")


if __name__ == "__main__":
    main()
