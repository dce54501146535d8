"""A real ZFS for tests: a pool of the kernel's, or of a zfs-fuse that is started for them.

OBUILDER_ZFS_POOL names a data set below which tests may make theirs. Without
it a pool is made in an image file. Which ZFS it was is told at the end.
"""

import fcntl
import itertools
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder._mounts import unmount_below
from obuilder_store_zfs.program import Failure, runs_zfs

__all__ = ["kernel_has_zfs", "record_zfs", "zfs_name", "zfs_pool"]

_IMAGE_BYTES = 2 << 30  # sparse: takes what is written
_LIMIT_S = 20.0
_LOCK = Path("/run/lock/obuilder-tests-zfs-fuse")
_PID_FILE = Path("/run/obuilder-tests-zfs-fuse.pid")
_numbers = itertools.count()
_USED = "used_zfs"
_used: list[str] = []


def kernel_has_zfs() -> bool:
    return Path("/sys/module/zfs").exists()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # xdist's, in one of its processes
        session.config.workeroutput[_USED] = _used


def pytest_testnodedown(node: Any) -> None:
    """One of xdist's processes has ended, and told what was used there."""
    _used.extend(getattr(node, "workeroutput", {}).get(_USED, ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what in _used:
        terminalreporter.write_line(f"zfs: the tests ran on {what}")


@pytest.fixture(scope="session")
def zfs_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A data set that tests may make theirs in, mounted; it goes with the session's end."""
    given = os.environ.get("OBUILDER_ZFS_POOL")
    if given:
        _used.append(f"{_version()}, {given}")
        yield given
    elif kernel_has_zfs() and shutil.which("zpool"):
        with _pool(tmp_path_factory.mktemp("zfs")) as pool:
            _used.append(f"{_version()}, a pool in a file")
            yield pool
    elif shutil.which("zfs-fuse"):
        with _fuse_daemon(), _pool(tmp_path_factory.mktemp("zfs")) as pool:
            _used.append("zfs-fuse, a pool in a file")
            yield pool
    else:
        _missing("neither the kernel's ZFS nor zfs-fuse is here: apt-get install zfs-fuse")


@pytest.fixture
def record_zfs() -> Callable[[str], None]:
    """Has a text told at the end with what the tests ran on."""
    return _used.append


@pytest.fixture
def zfs_name(zfs_pool: str) -> Iterator[str]:
    """The name of a data set of this test's own, which does not exist yet."""
    name = f"{zfs_pool}/t{next(_numbers)}"
    yield name
    # What a test left busy goes with the pool.
    _try("zfs", "destroy", "-R", name)


def _version() -> str:
    done = _try("zfs", "version")
    return done.stdout.split()[0] if done.returncode == 0 else "OpenZFS"


@contextmanager
def _pool(directory: Path) -> Iterator[str]:
    image, name = directory / "image", f"ob{os.getpid()}"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    options = ("-o", "cachefile=none", "-O", f"mountpoint={directory / 'pool'}", "-O", "atime=off")
    with _shared(directory):
        made = _try("zpool", "create", *options, name, str(image))
        if made.returncode:
            image.unlink()
            _missing(f"no zfs pool can be made here: {made.stderr.strip()}")
        try:
            yield name
        finally:
            _destroy(name, directory)
            image.unlink()


def _destroy(name: str, directory: Path) -> None:
    argv = ("zpool", "destroy", "-f", name)
    try:
        anyio.run(partial(runs_zfs, argv, doing="cannot destroy the pool"))
    except Failure as error:
        if kernel_has_zfs():
            raise
        # zfs-fuse now and then, while other programs have mount namespaces with the pool in them.
        # It goes with the daemon.
        _used.append(f"zfs-fuse, which did not let go of its pool: {error.what}")
        anyio.run(unmount_below, directory)


@contextmanager
def _shared(directory: Path) -> Iterator[None]:
    """Have what is unmounted below go from other namespaces too, an engine's for one.

    What stays mounted in one keeps its data set busy.
    """
    for argv in (("--bind", str(directory), str(directory)), ("--make-shared", str(directory))):
        done = _try("mount", *argv)
        if done.returncode:
            _missing(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        _try("umount", "--lazy", str(directory))


@contextmanager
def _fuse_daemon() -> Iterator[None]:
    """A running zfs-fuse. Its socket is the machine's only one: test processes share the daemon.

    Whoever finds none starts it; the last one that used it stops it, by its
    number, unless it was there before any test.
    """
    with _LOCK.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _try("zpool", "list").returncode:
            _start(_PID_FILE)
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield
        finally:
            with suppress(BlockingIOError):  # another still uses it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop(_PID_FILE)


def _start(pid_file: Path) -> None:
    # It makes no second start on a pid file that is there; it returns once it serves.
    pid_file.unlink(missing_ok=True)
    options = ("--no-kstat-mount", "--enable-xattr", "--pidfile", str(pid_file))
    # Its output is not captured: the daemon keeps that open.
    subprocess.run(
        ["zfs-fuse", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_LIMIT_S,
        check=False,
    )
    listed = _try("zpool", "list")
    if listed.returncode:
        _missing(f"zfs-fuse does not start: {listed.stderr.strip()}")


def _stop(pid_file: Path) -> None:
    if not pid_file.exists():
        return  # it was there before
    number = int(pid_file.read_text())
    pid_file.unlink()
    if b"zfs-fuse" not in Path(f"/proc/{number}/cmdline").read_bytes():
        return
    descriptor = os.pidfd_open(number)
    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    # It becomes readable when the daemon has ended, which takes it seconds.
    if not select.select([descriptor], [], [], _LIMIT_S)[0]:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)


def _try(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (this must not be missing under CI=true)")
    pytest.skip(reason)
