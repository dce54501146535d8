"""A private Docker engine and registry for tests, gone without a trace when they end.

The engine lives in a mount namespace of its own and dies with the thread that
started it, so that nothing stays mounted or running even if pytest is killed.
"""

import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from support.images import PATH_VARIABLE, busybox_tarball, debian_tarball

from obuilder import process

__all__ = ["DockerEngine", "DockerRegistry", "require_programs", "start_engine", "start_registry"]

START_LIMIT_S = 60.0
POLL_S = 0.05

_TARBALLS = {"busybox": busybox_tarball, "debian:bookworm": debian_tarball}
# Neither needs nor touches the machine's network.
_NO_NETWORK = "--bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false"
# $1: where tests mount things: what they unmount while the engine runs must not be held by its
# namespace. (A zfs-fuse stays busy even where unmounting is propagated.)
# $2: the size of the disk for the engine's data, or empty: the directory as it is.
_SCRIPT = """
while read -r _ _ _ _ place _; do
    case $place in "$1"/*) umount --lazy "$place" 2>/dev/null ;; esac
done </proc/self/mountinfo
test -z "$2" || mount -t tmpfs -o "size=$2" tmpfs "$3"
shift 3
exec "$@"
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerEngine:
    """A running engine; `host` is what DOCKER_HOST is set to, `config` DOCKER_CONFIG."""

    host: str
    config: Path
    portal: BlockingPortal

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run the docker CLI on this engine and return what it prints; ProcessError else."""
        env = {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.config)}
        call = partial(process.run, ["docker", *arguments], stdin=stdin, env=env)
        return self.portal.call(call).stdout.decode()

    def ensure(self, base: str) -> None:
        """See to it that the engine has `busybox` or `debian:bookworm`, as golden/ wants them."""
        if not self.docker("image", "ls", "--quiet", base):
            tarball = str(_TARBALLS[base]())
            self.docker("import", "--change", f"ENV {PATH_VARIABLE}", tarball, base)

    def containers(self) -> list[str]:
        return self.docker("ps", "--all", "--quiet").split()


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerRegistry:
    """A running registry; `address` (`localhost:PORT`) is the first part of its images' names."""

    address: str


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """An empty engine of the session's own; `ensure` puts the golden images in."""
    with start_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_registry() -> Iterator[DockerRegistry]:
    """An empty registry of the session's own: plain http, no login."""
    with start_registry() as registry:
        yield registry


@contextmanager
def start_engine(*, disk: str = "") -> Iterator[DockerEngine]:
    """Start dockerd; `disk` limits the space for its images (`16m`)."""
    require_programs("dockerd", "docker", "containerd", "unshare")
    if os.geteuid() != 0:
        _missing("a Docker engine needs root")
    # Not pytest's directory: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="obd-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        (root / "data").mkdir()
        (root / "config").mkdir()
        root.chmod(0o711)  # that the socket's mode decides who gets in
        argv = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _SCRIPT]
        argv += ["sh", tempfile.gettempdir(), disk, str(root / "data")]
        argv += ["dockerd", "--host", f"unix://{root}/sock", "--pidfile", str(root / "pid")]
        argv += ["--data-root", str(root / "data"), "--exec-root", str(root / "exec")]
        argv += _NO_NETWORK.split()
        with _daemon(argv, root / "log", pidfile=root / "pid") as daemon:
            host = f"unix://{root}/sock"
            engine = DockerEngine(host=host, config=root / "config", portal=daemon.portal)
            daemon.wait_for(partial(_answers, engine, root / "sock"))
            yield engine


@contextmanager
def start_registry(*, htpasswd: str = "") -> Iterator[DockerRegistry]:
    """Start a registry on a free port of localhost; `htpasswd`: lines `USER:BCRYPT`."""
    require_programs("docker-registry")
    with tempfile.TemporaryDirectory(prefix="obr-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        settings = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n"
        settings += "http: {addr: '127.0.0.1:0'}\n"
        if htpasswd:
            (root / "htpasswd").write_text(htpasswd)
            settings += f"auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n"
        (root / "config.yml").write_text(settings)
        argv = ["docker-registry", "serve", str(root / "config.yml")]
        with _daemon(argv, root / "log") as daemon:
            port = daemon.wait_for(
                partial(_found, r"listening on 127\.0\.0\.1:(\d+)", root / "log")
            )
            yield DockerRegistry(address=f"localhost:{port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Daemon:
    portal: BlockingPortal
    call: "Future[int]"
    log: Path

    def wait_for(self, answer: Callable[[], T | None]) -> T:
        """The first answer; a daemon that ends or does not answer in time is missing."""
        deadline = time.monotonic() + START_LIMIT_S
        ended = threading.Event()
        self.call.add_done_callback(lambda _: ended.set())
        while (found := answer()) is None:
            if ended.wait(POLL_S) or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-1500:]
                _missing(f"a daemon that tests need did not start: {tail}")
        return found


@contextmanager
def _daemon(argv: Sequence[str], log: Path, *, pidfile: Path | None = None) -> Iterator[_Daemon]:
    """Run a program in the background; with `pidfile` it is asked to end and given time to."""

    async def ask_to_end() -> None:
        _terminate(pidfile)

    stop: Callable[[], Awaitable[None]] | None = ask_to_end if pidfile else None
    with log.open("wb") as output, start_blocking_portal() as portal:
        fd = output.fileno()
        call = portal.start_task_soon(
            partial(process.call, argv, stdout=fd, stderr=fd, stop=stop), name=argv[0]
        )
        try:
            yield _Daemon(portal=portal, call=call, log=log)
        finally:
            call.cancel()


def _terminate(pidfile: Path | None) -> None:
    if pidfile is not None and pidfile.exists():
        os.kill(int(pidfile.read_text()), signal.SIGTERM)


def _answers(engine: DockerEngine, socket: Path) -> bool | None:
    if not socket.exists():
        return None
    ask = partial(process.run, ["docker", "info"], env={"DOCKER_HOST": engine.host}, ok=(0, 1))
    return True if engine.portal.call(ask).returncode == 0 else None


def _found(pattern: str, log: Path) -> str | None:
    match = re.search(pattern, log.read_text(errors="replace"))
    return match[1] if match else None


def require_programs(*programs: str) -> None:
    """Skip the test if one of them is not installed; fail it under CI=true."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        _missing(f"not installed: {', '.join(missing)}")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (this must not be missing under CI=true)")
    pytest.skip(reason)
