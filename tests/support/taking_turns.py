"""Builders in other processes whose steps tell when they begin and end, and end when they may.

`python -m support.taking_turns STORE MAX_STEPS STEP…` makes the steps side by side. All such
processes write lines to one pipe, their standard output: `+ PID STEP`, `- PID STEP`,
`waits PID STEP FOR WHOM`. A byte on their standard input, another pipe, lets one step end.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
from support.builds import Call, ScriptedSandbox, open_parts, stage

from obuilder import locks
from obuilder._core.build import BuildContext
from obuilder.events import Event, Waiting

__all__ = ["Turns", "turns"]

_LIMIT_S = 60.0
_TESTS = Path(__file__).parents[1]
_CHUNK_BYTES = 4096


class Turns:
    """The steps of several processes, as they tell of themselves."""

    def __init__(self, store: Path, said: int, permission: int, theirs: tuple[int, int]) -> None:
        self._store = store
        self._said, self._permission, self._theirs = said, permission, theirs
        self._rest = b""
        self.processes: list[anyio.abc.Process] = []
        self.running: set[str] = set()
        self.waiting: dict[str, str] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.most = 0

    async def start(self, max_steps: int, *steps: str) -> anyio.abc.Process:
        """Another process that makes these steps; its number is that of the `pid`."""
        process = await anyio.open_process(
            [
                sys.executable,
                "-m",
                "support.taking_turns",
                str(self._store),
                str(max_steps),
                *steps,
            ],
            stdin=self._theirs[0],
            stdout=self._theirs[1],
            stderr=None,
            cwd=_TESTS,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.processes.append(process)
        return process

    def let_one_end(self) -> None:
        """Any of the steps that run."""
        os.write(self._permission, b".")

    async def until(self, reached: Callable[[], bool]) -> None:
        """Read what they say until it is so."""
        with anyio.fail_after(_LIMIT_S):
            while not reached():
                await anyio.wait_readable(self._said)
                data = self._rest + os.read(self._said, _CHUNK_BYTES)
                *lines, self._rest = data.split(b"\n")
                for line in lines:
                    self._hear(line.decode())

    async def counts(self, *, begun: int, ended: int) -> None:
        """Read until so many have begun, and so many ended."""
        await self.until(lambda: (len(self.begun), len(self.ended)) == (begun, ended))

    def _hear(self, line: str) -> None:
        what, _, step, *rest = line.split(" ", 3)
        match what:
            case "+":
                self.waiting.pop(step, None)
                self.begun.append(step)
                self.running.add(step)
                self.most = max(self.most, len(self.running))
            case "-":
                self.running.remove(step)
                self.ended.append(step)
            case "waits":
                self.waiting[step] = rest[0]


@asynccontextmanager
async def turns(store: Path) -> AsyncIterator[Turns]:
    """Processes on one store, whose base is made; those that live are killed after the block."""
    async with open_parts(store) as parts:
        await parts.builder.build(stage("((from b))"))
    (said, theirs_said), (theirs_permission, permission) = os.pipe(), os.pipe()
    os.set_blocking(theirs_permission, False)  # several wait for each byte
    them = Turns(store, said, permission, (theirs_permission, theirs_said))
    try:
        yield them
    finally:
        with anyio.CancelScope(shield=True):
            for process in them.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        for descriptor in (said, theirs_said, theirs_permission, permission):
            os.close(descriptor)


def _say(*words: str) -> None:
    os.write(1, f"{' '.join(words)}\n".encode())  # shorter than PIPE_BUF: never mixed up


async def _run(call: Call) -> None:
    step = call.config.argv[-1]
    _say("+", str(os.getpid()), step)
    own = os.dup(0)  # each task waits for a descriptor of its own
    try:
        ended = False
        while not ended:
            await anyio.wait_readable(own)
            with suppress(BlockingIOError):  # another was first
                ended = bool(os.read(own, 1))
    finally:
        os.close(own)
    _say("-", str(os.getpid()), step)


async def _main(store: Path, max_steps: int, steps: list[str]) -> None:
    locks.TELL_AFTER_S = 0.0
    sandbox = ScriptedSandbox(scripts=dict.fromkeys(steps, _run))

    async def build(step: str) -> None:
        def tell(event: Event) -> None:
            if isinstance(event, Waiting):
                pids = ",".join(str(pid) for pid in (event.pid, *event.others))
                _say("waits", str(os.getpid()), step, f"{event.what}: {pids}")

        spec = stage(f"((from b) (run (shell {step})))")
        await parts.builder.build(spec, BuildContext(on_event=tell))

    async with (
        open_parts(store, sandbox=sandbox, max_steps=max_steps) as parts,
        anyio.create_task_group() as tasks,
    ):
        for step in steps:
            tasks.start_soon(build, step)


if __name__ == "__main__":
    anyio.run(_main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
