"""Running the installed `obuilder` command as a user would, and a base image to run it on."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.images import busybox_tarball

__all__ = ["Command", "Running", "obuilder"]

PROGRAM = Path(sys.executable).with_name("obuilder")
LIMIT_S = float(os.environ.get("OBUILDER_LIMIT_S", "100"))
SHELL_LINES = "((from archive:busybox.tar) (shell /bin/sh -c)"


class Running:
    """A command that runs; what it printed so far can be waited for."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.output = b""
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            with self._changed:
                self.output += data
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self.process.stdout.close()

    def wait_for(self, text: bytes) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: text in self.output or self._ended, LIMIT_S)
        assert found and text in self.output, self.output

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def press_ctrl_c(self) -> None:
        """Interrupt its process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, bytes, bytes]:
        assert self.process.stderr is not None
        stderr = self.process.stderr.read()
        status = self.process.wait(LIMIT_S)
        self.process.stderr.close()
        self._reader.join()
        return status, self.output, stderr


@dataclass
class Command:
    """`obuilder` in a directory of its own: spec, source tree, store, private configuration."""

    directory: Path
    store: str
    options: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    started: list[Running] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return self.directory / "src"

    def environment(self) -> dict[str, str]:
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": os.environ["PATH"], "HOME": str(home), **self.env}

    def argv(self, *args: str) -> list[str]:
        return [str(PROGRAM), f"--store={self.store}", *self.options, *args]

    def __call__(self, *args: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            self.argv(*args),
            input=stdin,
            capture_output=True,
            cwd=self.directory,
            env=self.environment(),
            timeout=LIMIT_S,
            check=False,
        )

    def write_spec(self, ops: str, name: str = "spec") -> Path:
        """A spec on the busybox base; `ops` follow the shell."""
        path = self.directory / name
        path.write_text(f"{SHELL_LINES} {ops})")
        return path

    def build(self, ops: str, *args: str) -> "subprocess.CompletedProcess[bytes]":
        return self("build", "-f", str(self.write_spec(ops)), *args, str(self.source))

    def start(self, ops: str, *args: str) -> Running:
        return self.start_on(self.write_spec(ops), *args)

    def start_on(self, spec: Path, *args: str) -> Running:
        argv = self.argv("build", "-f", str(spec), *args, str(self.source))
        running = Running(
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.directory,
                env=self.environment(),
                process_group=0,
            )
        )
        self.started.append(running)
        return running

    def end_started(self) -> None:
        """End what a test that failed has left running."""
        for running in self.started:
            if running.process.poll() is None:
                running.signal(signal.SIGTERM)
                running.end()


@pytest.fixture(scope="session")
def busybox_archive() -> Path:
    """A root file system of a static busybox with every applet linked in `/bin`."""
    return busybox_tarball()


@pytest.fixture
def obuilder(tmp_path: Path, busybox_archive: Path) -> Iterator[Command]:
    """The command on a private rsync store; removes the tree that root-owned builds leave."""
    (tmp_path / "src").mkdir()
    shutil.copy(busybox_archive, tmp_path / "busybox.tar")
    command = Command(tmp_path, f"rsync:{tmp_path}/store")
    yield command
    command.end_started()
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
