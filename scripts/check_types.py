"""Runs mypy --strict over the core, the plugins, the tests and the examples."""

import sys
from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Check each distribution's sources and tests; the status is mypy's worst."""
    sources = ["core/src", "plugins/*/src", "tests", "core/tests", "plugins/*/tests", "examples"]
    found = [path for pattern in sources for path in sorted(ROOT.glob(pattern))]
    targets = [str(path.relative_to(ROOT)) for path in found if any(path.rglob("*.py"))]
    out, err, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), *targets])
    sys.stdout.write(out)
    sys.stderr.write(err)
    return status


if __name__ == "__main__":
    sys.exit(main())
