"""Measures what docs/development.md reports: start-up times and lines per file."""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from obuilder import process

ROOT = Path(__file__).resolve().parent.parent
RUNS = 20


async def median_ms(argv: Sequence[str]) -> float:
    """Milliseconds from start to exit, the median of RUNS runs, after one to warm the caches."""
    await process.run(argv)
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        await process.run(argv)
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


async def main() -> None:
    """Print one line per command and per part of the tree."""
    obuilder = str(Path(sys.executable).with_name("obuilder"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import obuilder'": [sys.executable, "-c", "import obuilder"],
        "obuilder --version": [obuilder, "--version"],
        "obuilder --help": [obuilder, "--help"],
        "obuilder backends": [obuilder, "backends"],
    }
    for name, argv in commands.items():
        sys.stdout.write(f"{name:30} {await median_ms(argv):6.0f} ms\n")
    for part in ("core/src", "plugins/*/src", "core/tests", "plugins/*/tests", "tests"):
        files = [file for path in ROOT.glob(part) for file in path.rglob("*.py")]
        lines = sorted(len(file.read_text().splitlines()) for file in files)
        if lines:
            sys.stdout.write(
                f"{part:16} {len(lines):3} files {sum(lines):6} lines, "
                f"median {statistics.median(lines):.0f}, longest {lines[-1]}\n"
            )


if __name__ == "__main__":
    anyio.run(main)
