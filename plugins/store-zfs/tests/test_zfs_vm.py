"""The same tests on OpenZFS, in the VM that OBUILDER_ZFS_VM starts."""

import os
import shlex
import signal
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
IS_LONG = bool(os.environ.get("OBUILDER_ZFS_VM_LONG"))
LIMIT_S = 3600 if IS_LONG else 2400
SETUP_S = 1200
ARCHIVE = "tree.tar"
# What no test there runs is most of the bytes.
_LEFT_OUT = frozenset({"grimp", "mypy", "mypyc", "pip", "setuptools"})
# One string is run by `sh -c`. The shared folder is slow to walk, and quick to read one file from.
# Side by side, one VM each: what runs in one is on one processor most of the time. It is the
# last test to begin (tests/support/processes.py): beside others it is slow past every limit.
PARTS = {
    "store": ["test_zfs_store.py"],
    "others": [
        "test_zfs_builds.py",
        "test_zfs_caches.py",
        "test_zfs_kernel.py",
        "test_zfs_location.py",
        "test_zfs_space.py",
    ],
}
LEFT_OUT = ["test_zfs_kills.py", "test_zfs_same_specs.py", "test_zfs_storm.py"]
"""They take more than 10 minutes each there: zfs-fuse has them. By hand: README.md."""
LONG = {
    "test_zfs_store.py::TestZfsStore": [
        "test_a_damaged_or_cut_stream_imports_nothing",
        "test_an_import_that_is_cancelled_leaves_nothing",
        "test_odd_cache_names_are_safe_and_distinct",
        "test_use_leaks_no_descriptors",
    ],
    "test_zfs_caches.py": [
        f"test_{name}[asyncio-{number}]"
        for name in (
            "a_release_that_dies_at_any_point_leaves_the_old_version_or_the_new",
            "the_first_release_of_a_cache_may_die_at_any_point",
        )
        for number in range(12)
        if number % 4
    ],
}
"""They take long there: without OBUILDER_ZFS_VM_LONG zfs-fuse has them alone."""

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
    for file, names in LONG.items():
        if not IS_LONG:
            options += (f"--deselect={here}/{file}::{name}" for name in names)
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
    return None if name in _LEFT_OUT or "__mypyc." in name else entry
