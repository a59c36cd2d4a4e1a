#!/usr/bin/env python3
"""Makes the Parquet files of tests/fixtures/datasets with pyarrow: one table in every compression and page version.

    pip install pyarrow
    tests/tools/make_datasets.py
"""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent.parent / "fixtures" / "datasets"

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("wide_ids", pa.list_(pa.int64())),
        ("unsigned_ids", pa.large_list(pa.uint32())),
        ("messages", pa.list_(MESSAGE)),
        ("score", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("origin", pa.struct([("url", pa.string()), ("pages", pa.list_(pa.int32()))])),
        ("at", pa.timestamp("ms")),
        ("blob", pa.binary()),
    ]
)


def row(number: int) -> dict:
    """One row; every fourth text is null, every third list is empty or null."""
    ids = [None, [], [0]][number % 3] if number % 2 else list(range(number))
    return {
        "id": number,
        "text": None if number % 4 == 3 else f"Text {number}: ü\n" + "word " * number,
        "input_ids": ids,
        "wide_ids": [number, 2**32 - 1],
        "unsigned_ids": [2**32 - 1 - number],
        "messages": [
            {"role": "user", "content": f"Question {i}"} if i % 2 == 0 else {"role": "assistant", "content": None}
            for i in range(number % 3)
        ],
        "score": number / 4,
        "tags": ["a", None] if number % 2 else None,
        "origin": {"url": f"https://example.org/{number}", "pages": [number]},
        "at": datetime(2024, 1, 1 + number),
        "blob": bytes(number),
    }


def write(name: str, table: pa.Table, **options) -> None:
    """Writes a table in row groups of four rows."""
    pq.write_table(table, FOLDER / f"{name}.parquet", row_group_size=4, **options)


def main() -> None:
    """Writes all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([row(number) for number in range(10)], schema=SCHEMA)
    write("plain", table, compression="none", use_dictionary=False)
    write("dictionary", table, compression="none")
    for compression in ["snappy", "gzip", "zstd", "lz4"]:
        write(compression, table, compression=compression)
        write(f"{compression}-v2", table, compression=compression, data_page_version="2.0")
    texts = table.select(["text", "input_ids"])
    write("brotli", texts, compression="brotli")
    numbers = pa.table({"text": ["a", "b"] * 50, "n": pa.array(range(100), pa.int64())})
    encodings = {"text": "PLAIN", "n": "DELTA_BINARY_PACKED"}
    write("delta", numbers, compression="none", use_dictionary=False, column_encoding=encodings)
    encodings = {"text": "DELTA_BYTE_ARRAY", "n": "PLAIN"}
    write("delta-text", numbers, compression="none", use_dictionary=False, column_encoding=encodings)


if __name__ == "__main__":
    main()
