"""Runs mypy --strict over the core, the plugins, the tests and the examples."""

import sys
from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parent.parent
TOGETHER = ("core/src", "plugins/*/src", "tests", "core/tests", "examples", "benchmarks")
# Each may have a conftest.py, and mypy takes one module of a name at a time.
ALONE = "plugins/*/tests"


def runs() -> list[list[Path]]:
    """The directories to check, those of one list in one run."""
    together = [path for pattern in TOGETHER for path in sorted(ROOT.glob(pattern))]
    return [together, *([path] for path in sorted(ROOT.glob(ALONE)))]


def main() -> int:
    """Check all; the status is mypy's worst."""
    worst = 0
    for paths in runs():
        targets = [str(path.relative_to(ROOT)) for path in paths if any(path.rglob("*.py"))]
        if not targets:
            continue
        out, err, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), *targets])
        sys.stdout.write(f"{' '.join(targets)}: {out}")
        sys.stderr.write(err)
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main())
