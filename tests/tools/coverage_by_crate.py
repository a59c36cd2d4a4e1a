"""Prints the lines that tests cover, by crate, from llvm-cov's summary. Fails below the wanted share."""

import json
import sys
from collections import defaultdict
from pathlib import Path

WANTED = 80
ROOT = Path(__file__).resolve().parents[2]


def crate(path: Path) -> str:
    """Returns the crate's folder: services/engine, gateway."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[: 2 if parts[0] == "services" else 1])


def main() -> int:
    files = json.loads(Path(sys.argv[1]).read_text())["data"][0]["files"]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in files:
        path = Path(file["filename"])
        if path.is_relative_to(ROOT):
            lines = file["summary"]["lines"]
            counts[crate(path)][0] += lines["covered"]
            counts[crate(path)][1] += lines["count"]
    print(f"{'crate':24} {'lines':>8} {'covered':>8}")
    low = []
    for name, (covered, count) in sorted(counts.items()):
        share = 100 * covered / count
        print(f"{name:24} {count:8} {share:7.1f}%")
        if share < WANTED:
            low.append(name)
    covered, count = (sum(column) for column in zip(*counts.values()))
    print(f"{'all':24} {count:8} {100 * covered / count:7.1f}%")
    if low:
        print(f"below {WANTED} %: {', '.join(low)}", file=sys.stderr)
    return bool(low)


if __name__ == "__main__":
    sys.exit(main())
