"""Another builder in the contract of sandboxes: a process with a command that answers."""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from obuilder.process import call
from obuilder.testing._tools import CONFIG_FROM_JSON, LIMIT_S, children_running
from obuilder.testing._traces import Mark

__all__ = ["BEATS", "OtherBuilder", "builder_code"]

BEATS = "/beats"
"""What grows in the root while something of the command lives."""

# It answers as long as it is asked. It ignores what can be ignored, and so does what it has
# started in a session of its own. Some have no `sleep` of less than a second: those beat faster.
_COMMAND = f"""trap '' TERM HUP INT
beat="while echo >> {BEATS}; do sleep 0.1 2>/dev/null; done"
setsid /bin/sh -c "trap '' TERM HUP INT; $beat" "$0" &
while read word; do echo "$word"; done
eval $beat"""

# A builder of its own that runs one command, whose input and output are its own.
_BUILDER = """
import json, sys, anyio
from contextlib import asynccontextmanager
from pathlib import Path
from obuilder.interfaces import BuildLog
from obuilder.types import RunConfig
from {module} import {name} as Backend

class Log(BuildLog):
    async def output(self, data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    async def note(self, text):
        pass
    @asynccontextmanager
    async def pipe(self):
        yield 1

async def main(state_dir, options, id, rootfs, rest):
    config = config_from_json(Backend.Config, options)
    async with Backend.open(Path(state_dir), config) as sandbox:
        argv, env, network = (tuple(each) for each in json.loads(rest))
        run = RunConfig(id=id, argv=argv, env=(env,), network=network)
        await sandbox.run(run, Path(rootfs), log=Log(), stdin=0)

anyio.run(main, *sys.argv[1:], backend={backend!r})
"""


def builder_code(kind: type, backend: str) -> str:
    """The text of a builder with a sandbox of class `kind`, on an event loop."""
    return CONFIG_FROM_JSON + _BUILDER.format(
        module=kind.__module__, name=kind.__name__, backend=backend
    )


class OtherBuilder:
    """Alive until it is killed. Whether its command lives is seen by what that does."""

    def __init__(self, code: str, asking: int, answering: int) -> None:
        self._code = code
        self._asking = asking
        self._answering = answering
        self._said = b""
        self._ended = anyio.Event()

    @classmethod
    @asynccontextmanager
    async def started(
        cls, code: str, args: Sequence[str], *, path: tuple[str, str], network: Sequence[str]
    ) -> AsyncIterator["OtherBuilder"]:
        """One whose command has answered."""
        mark = Mark()
        rest = json.dumps([["/bin/sh", "-c", _COMMAND, mark.word], path, network])
        argv = (sys.executable, "-c", code, *args, rest)
        stdin, asking = os.pipe()
        answering, stdout = os.pipe()
        os.set_blocking(answering, False)
        other = cls(code, asking, answering)
        failure: Exception | None = None

        async def work() -> None:
            try:
                # The backend may live where the tests do.
                env = {"PYTHONPATH": os.pathsep.join(sys.path)}
                await call(argv, stdin=stdin, stdout=stdout, stderr=2, env=env)
            finally:
                os.close(stdin)
                os.close(stdout)
                other._ended.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                try:
                    assert await other.answers("started"), "the other's command says nothing"
                    yield other
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                finally:
                    with anyio.CancelScope(shield=True):
                        await other.kill()
        finally:
            os.close(asking)
            os.close(answering)
            # What a fault has left must not outlive the test.
            mark.kill()
        if failure is not None:
            raise failure

    async def answers(self, word: str) -> bool:
        """Whether the command says what it is told, before it ends or the time is over."""
        try:
            os.write(self._asking, f"{word}\n".encode())
        except BrokenPipeError:  # nobody listens any more
            return False
        line = f"{word}\n".encode()
        with anyio.move_on_after(LIMIT_S):
            while not self._read() and line not in self._said:
                await anyio.wait_readable(self._answering)
        return line in self._said

    async def kill(self) -> None:
        """Kill (-9) the builder, and nothing else, and wait for its end."""
        for pid in children_running(self._code):
            os.kill(pid, signal.SIGKILL)
        await self._ended.wait()

    async def has_ended(self, limit_s: float) -> bool:
        """Whether, at once or before the time is over, nobody holds the command's output."""
        with anyio.move_on_after(limit_s):
            while not self._read():
                await anyio.wait_readable(self._answering)
        return self._read()

    def _read(self) -> bool:
        """Read what there is; whether that was the end."""
        while True:
            try:
                data = os.read(self._answering, 65536)
            except BlockingIOError:
                return False
            if not data:
                return True
            self._said += data
