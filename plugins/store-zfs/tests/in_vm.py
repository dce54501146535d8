"""Runs these tests inside a VM whose kernel has ZFS: `python3 in_vm.py SITE_PACKAGES POOL ARG…`.

The VM has this repository and the environment's packages on a shared folder,
and a Python of its own, which is told where they are.
"""

import os
import site
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMMAND = """#!{python}
import sys
from obuilder._cli.main import main
sys.exit(main())
"""


def run(site_packages: str, pool: str, *args: str) -> int:
    """Set up what the environment outside has, and run pytest."""
    sources = [ROOT / "core/src", *sorted(ROOT.glob("plugins/*/src"))]
    known = Path(site.getsitepackages()[0])
    known.mkdir(parents=True, exist_ok=True)
    (known / "obuilder.pth").write_text("\n".join([*map(str, sources), site_packages, ""]))
    site.addsitedir(str(known))
    command = Path(sys.executable).with_name("obuilder")
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)
    os.environ["OBUILDER_ZFS_POOL"] = pool
    os.environ["XDG_CACHE_HOME"] = "/tmp/cache"
    os.chdir(ROOT)
    import pytest  # noqa: PLC0415 - found only now

    return int(pytest.main(["-p", "no:cacheprovider", *args]))


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
