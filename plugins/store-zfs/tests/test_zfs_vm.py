"""The same tests on OpenZFS, in the VM that OBUILDER_ZFS_VM starts."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LIMIT_S = 3000


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 300)
def test_the_suite_passes_on_openzfs_in_a_vm(record_zfs: Callable[[str], None]) -> None:
    packages = Path(pytest.__file__).parents[1]
    assert packages.is_relative_to(ROOT), "the VM sees this repository only: make venv in it"
    argv = [
        *shlex.split(os.environ["OBUILDER_ZFS_VM"]),
        *(
            "run",
            "--share",
            str(ROOT),
            "--timeout",
            str(LIMIT_S),
            "-e",
            "PYTHONDONTWRITEBYTECODE=1",
        ),
        *("-e", "CI=true", "--", "python3", str(HERE / "in_vm.py"), str(packages), "tank"),
        *("-q", "--timeout=600", "-k", "not trio", str(HERE)),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S + 200, check=False)
    record_zfs(f"OpenZFS in a VM: {' | '.join(done.stdout.splitlines()[-2:])}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
