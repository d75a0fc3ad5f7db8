"""Makes the Parquet manifests that the tests of dataset/ read, with pyarrow 26.0.1: one table as Snappy with dictionaries and
two row groups, as Zstandard with pages of version 2, and uncompressed without dictionaries; the same in gzip, which graft does
not read; and pictures inside of a file, as data sets are shared on the net."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent

table = pa.table(
    {
        "id": pa.array([7, 8, 9, 10], pa.int64()),
        "file": ["x/1.jpg", "x/2.jpg", "y/3.jpg", "y/blätter.jpg"],
        "label": pa.array(["rust", "healthy", "rust", "healthy"]).dictionary_encode(),
        "group": ["f1", None, "f2", "f2"],
        "split": ["train", "train", "test", "train"],
        "yield": pa.array([4.25, 1e-3, -7.5, 0.1], pa.float64()),
        "severity": pa.array([0, 4, 2, 1], pa.int8()),
        "miner": pa.array([True, False, False, True]),
        "boxes": pa.array([[1, 2], [], [3], None], pa.list_(pa.int32())),
    }
)
pq.write_table(table, HERE / "snappy.parquet", compression="snappy", row_group_size=3)
pq.write_table(table, HERE / "zstd.parquet", compression="zstd", data_page_version="2.0")
pq.write_table(table, HERE / "plain.parquet", compression="none", use_dictionary=False)
pq.write_table(table, HERE / "gzip.parquet", compression="gzip")
picture = pa.StructArray.from_arrays([pa.array([b"x"]), pa.array(["1.jpg"])], ["bytes", "path"])
pq.write_table(pa.table({"image": picture, "label": pa.array([3])}), HERE / "inside.parquet")
