"""Steps of the real command that wait, each until a test lets it go on."""

from collections.abc import Iterator
from pathlib import Path

from support.command import Command, Running

__all__ = ["let_go", "place", "started", "waiting"]


def waiting(name: str, *, before: str = "true", after: str = "true", mounts: str = "") -> str:
    """A run step that says `up NAME` and then waits for `let_go`."""
    command = f"touch /{name}; {before}; echo up {name}; until test -e /go; do usleep 9000; done"
    return f'(run {mounts} (shell "{command}; {after}"))'


def started(obuilder: Command, name: str, *args: str, **step: str) -> Running:
    """A build that makes such a step, once that waits."""
    running = obuilder.start(waiting(name, **step), *args)
    running.wait_for(f"\nup {name}\n".encode())
    return running


def place(obuilder: Command, name: str) -> Path:
    """The root file system of the step that waits."""
    (found,) = _roots(obuilder, name)
    return found


def let_go(obuilder: Command, name: str) -> None:
    """The step goes on."""
    (place(obuilder, name) / "go").touch()


def _roots(obuilder: Command, name: str) -> Iterator[Path]:
    store = Path(obuilder.store.partition(":")[2])
    for temporary in (store / "result-tmp").iterdir():
        if (temporary / "rootfs" / name).exists():
            yield temporary / "rootfs"
