"""The same tests on OpenZFS, in the VM that OBUILDER_ZFS_VM starts.

It is the last test to begin (tests/support/processes.py): beside others it is slow past every
limit.
"""

import os
import shlex
import signal
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.zfs_vm import IS_LONG, LEFT_OUT, LONG, PARTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LIMIT_S = 3600 if IS_LONG else 2400
SETUP_S = 1200
ARCHIVE = "tree.tar"
# What no test there runs is most of the bytes.
_UNUSED = frozenset({"grimp", "mypy", "mypyc", "pip", "setuptools"})
# One string is run by `sh -c`. The shared folder is slow to walk, and quick to read one file from.
_COMMAND = """
mkdir /tmp/tree && tar -xf {archive} -C /tmp/tree && cd /tmp/tree &&
exec python3 {script} /tmp/tree/packages tank {options}
"""


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + SETUP_S + 300)
def test_the_suite_passes_on_openzfs_in_a_vm(
    tmp_path: Path, record_zfs: Callable[[str], None]
) -> None:
    vm = shlex.split(os.environ["OBUILDER_ZFS_VM"])
    _run([*vm, "setup"], SETUP_S)  # it does nothing where the VM is made already
    _pack(tmp_path / ARCHIVE)
    with ThreadPoolExecutor() as threads:
        runs = {
            part: threads.submit(_run_in_vm, vm, tmp_path, files) for part, files in PARTS.items()
        }
    for part, run in runs.items():
        printed = run.result()
        record_zfs(f"OpenZFS in a VM, {part}: {' | '.join(printed.splitlines()[-2:])}")
        assert "skipped" not in printed


def test_every_file_has_its_part() -> None:
    files = {path.name for path in HERE.glob("test_*.py")}
    named = [name for names in PARTS.values() for name in names]
    assert sorted([*named, *LEFT_OUT, Path(__file__).name]) == sorted(files)


def _run_in_vm(vm: list[str], shared: Path, files: list[str]) -> str:
    """Run the tests of files, and return what was printed. Fails as they do."""
    options = ["-q", "--timeout=900", "-k", "not trio", "--durations=10"]
    here = HERE.relative_to(ROOT)
    if not IS_LONG:
        options += (f"--deselect={here}/{name}" for name in LONG)
    command = _COMMAND.format(
        archive=ARCHIVE,
        script=here / "in_vm.py",
        options=shlex.join([*options, *(str(here / name) for name in files)]),
    )
    limits = ["--share", str(shared), "--timeout", str(LIMIT_S), "-e", "CI=true"]
    limits += ["-e", "OBUILDER_LIMIT_S=800"]
    return _run([*vm, "run", *limits, "--", command], LIMIT_S + 200)


def _run(argv: list[str], limit_s: float) -> str:
    """What a program printed; it ends in time and well, or this fails."""
    # Making the VM works in another root too, where this process's temporary directory is not.
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit_s)
        except BaseException:
            # With what it has started: making the VM is a script of many programs.
            os.killpg(process.pid, signal.SIGTERM)
            raise
    assert process.returncode == 0, stdout + stderr
    return stdout


def _pack(archive: Path) -> None:
    """Put what the tests need, and the environment's packages, into one file."""
    with tarfile.open(archive, "w") as tar:
        tar.add(Path(pytest.__file__).parents[1], "packages", filter=_needed)
        for name in ("conftest.py", "pyproject.toml", "core", "plugins", "tests"):
            tar.add(ROOT / name, name, filter=_needed)


def _needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in _UNUSED or "__mypyc." in name else entry
