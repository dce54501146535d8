"""Tries the configured store in a process of its own, and prints the promises kept and broken."""

import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from obuilder._cli.conformance_place import new_location, parents_made, remove_store
from obuilder._cli.conformance_table import Table
from obuilder._cli.global_options import GlobalOptions
from obuilder._cli.output import Output
from obuilder._cli.report import FAILED, say
from obuilder._cli.supervise import supervised
from obuilder._core.session import load_store
from obuilder.errors import ConfigError, ObuilderError, ProcessError
from obuilder.interfaces import Store
from obuilder.process import Completed, run

__all__ = ["run_conformance"]

_TEST_LIMIT_S = 600.0
"""A promise that takes longer hangs: the suite's own limits are shorter."""

_ANY = range(-64, 256)
_KEPT_ALL, _BROKEN_SOME, _NONE_SELECTED = 0, 1, 5  # pytest's exit statuses


def run_conformance(options: GlobalOptions, *, lacks: Sequence[str], only: Sequence[str]) -> int:
    """Try all promises; the exit status. ConfigError if the store cannot be tried."""
    _check_prerequisites(lacks)
    settings = options.settings()
    backend, config = load_store(settings)
    if options.sandbox or options.fetcher:
        say("obuilder: only stores have a contract so far; the sandbox and fetcher are not tried")
    location = new_location(settings.location)
    trial = _Trial(backend, config, options=options, location=location)
    with parents_made(location):
        try:
            return supervised(lambda output: trial.work(output, lacks=lacks, only=only))
        except ConfigError as error:
            error.where = settings.place(error.where)
            raise


def _check_prerequisites(lacks: Sequence[str]) -> None:
    missing = [name for name in ("pytest", "trio") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the contract needs {' and '.join(missing)}, which is not installed",
            hint="pip install 'obuilder[testing]'",
            code="cli.no-testing",
        )
    if os.geteuid() != 0:
        raise ConfigError(
            "the contract makes device nodes and files of other owners, which only root may",
            hint="run it with sudo",
            code="cli.not-root",
        )
    from obuilder.testing import StoreContract  # noqa: PLC0415 - it may have been missing

    abilities = sorted(name for name in dir(StoreContract) if name.startswith("can_"))
    for ability in lacks:
        if ability not in abilities:
            raise ConfigError(
                f"the contract has no ability {ability!r}",
                where="--lacks",
                hint=f"there are: {', '.join(abilities)}",
                code="cli.ability",
            )


class _Trial:
    """One run of the contract."""

    def __init__(
        self, backend: type[Store[Any]], config: object, *, options: GlobalOptions, location: str
    ) -> None:
        self._backend = backend
        self._config = config
        self._options = options
        self._location = location
        self._made: list[str] = []
        self._ended = False
        self._while = ""

    async def work(self, output: Output, *, lacks: Sequence[str], only: Sequence[str]) -> int:
        """Try the promises that `only` selects, print them, and return the exit status."""
        table = Table(output=output)
        try:
            await self._first()
            completed = await self._run(table, lacks, only)
        finally:
            table.flush()
            with anyio.CancelScope(shield=True):
                await self._remove_rest()
        if self._options.verbose:
            say(completed.stdout.decode("utf-8", "backslashreplace"))
        if completed.returncode == _NONE_SELECTED:
            raise ConfigError(
                f"no promise has the words {' or '.join(map(repr, only))}",
                where="--only",
                code="cli.no-promise",
            )
        if not self._ended or completed.returncode not in {_KEPT_ALL, _BROKEN_SOME}:
            said = (completed.stdout + completed.stderr).decode("utf-8", "backslashreplace")
            raise ProcessError(
                f"pytest ended with status {completed.returncode}{self._while}: {said[-2000:]}",
                returncode=completed.returncode,
            )
        total = table.kept + table.broken
        table.line(
            f"{total} promise{'' if total == 1 else 's'}: {table.kept} kept, {table.broken} broken"
        )
        return FAILED if table.broken else 0

    async def _first(self) -> None:
        # What is wrong with the location is said once, and not by each promise.
        location = f"{self._location}/0"
        async with self._backend.open(location, self._config):
            self._made.append(location)

    async def _run(self, table: Table, lacks: Sequence[str], only: Sequence[str]) -> Completed:
        from obuilder._cli.conformance_child import Task  # noqa: PLC0415 - needs pytest

        reader, writer = os.pipe()
        task = Task(options=self._options, location=self._location, lacks=lacks, fd=writer)
        selection = ["-k", " or ".join("_".join(words.split()) for words in only)] if only else []
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        results: list[Completed] = []

        async def child() -> None:
            try:
                argv = [*_argv(task.to_json()), *selection]
                results.append(await run(argv, env=environment, pass_fds=(writer,), ok=_ANY))
            except ObuilderError as error:  # told below
                failures.append(error)
            finally:
                os.close(writer)

        # Raised outside the task group, which would wrap them.
        failures: list[ObuilderError] = []
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child)
                try:
                    async for line in _lines(reader):
                        if "location" in line:
                            self._made.append(line["location"])
                        elif "begun" in line:
                            self._while = f" in {line['begun']}"
                        elif "end" in line:
                            self._ended = True
                        else:
                            table.add(line["test"], line["variant"], line["broken"])
                except TimeoutError:  # told below
                    failures.append(
                        ProcessError(f"took longer than {_TEST_LIMIT_S:.0f} s{self._while}")
                    )
                    tasks.cancel_scope.cancel()
        finally:
            os.close(reader)
        if failures:
            raise failures[0]
        return results[0]

    async def _remove_rest(self) -> None:
        for location in self._made:
            if Path(location).is_absolute() and not Path(location).exists():
                continue
            try:
                await remove_store(self._backend, location, self._config)
            except (ObuilderError, OSError) as error:  # told, and the others are removed
                say(f"obuilder: {location} remains: {error}")


def _argv(task: str) -> list[str]:
    suite = Path(__file__).with_name("conformance_suite.py")
    return [
        *(sys.executable, "-m", "pytest", "-q", "--tb=short", "--import-mode=importlib"),
        *(
            "--noconftest",
            "-p",
            "no:cacheprovider",
            "-p",
            "anyio",
            "-p",
            "obuilder._cli.conformance_child",
        ),
        *("-c", os.devnull, f"--rootdir={suite.parent}", f"--obuilder-task={task}"),
        str(suite),
    ]


async def _lines(reader: int) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    while True:
        with anyio.fail_after(_TEST_LIMIT_S):
            await anyio.wait_readable(reader)
        data = os.read(reader, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
