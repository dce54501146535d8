"""Tries a configured backend in a process of its own, and prints the promises kept and broken."""

import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from obuilder._cli.conformance_subjects import Subject, subject
from obuilder._cli.conformance_table import Table
from obuilder._cli.global_options import GlobalOptions
from obuilder._cli.output import Output
from obuilder._cli.report import FAILED, say
from obuilder._cli.supervise import supervised
from obuilder.errors import ConfigError, ObuilderError, ProcessError
from obuilder.process import Completed, run

__all__ = ["Wishes", "run_conformance"]

_TEST_LIMIT_S = 600.0
"""A promise that takes longer hangs: the suite's own limits are shorter."""

_ANY = range(-64, 256)
_KEPT_ALL, _BROKEN_SOME, _NONE_SELECTED = 0, 1, 5  # pytest's exit statuses


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says of the promises: see the command's help."""

    lacks: Sequence[str] = ()
    only: Sequence[str] = ()
    base: str | None = None
    missing_base: str | None = None


def run_conformance(options: GlobalOptions, wishes: Wishes) -> int:
    """Try all promises; the exit status. ConfigError if a backend cannot be tried.

    Those are tried that the options name, and the configured store if they name none.
    """
    named = {"store": options.store, "sandbox": options.sandbox, "fetcher": options.fetcher}
    kinds = [kind for kind, name in named.items() if name is not None] or ["store"]
    _check_prerequisites(kinds, wishes)
    settings = options.settings()
    # What is wrong with one of them is said before any is tried.
    subjects = [subject(kind, settings) for kind in kinds]
    statuses = []
    tried = 0
    for each in subjects:
        trial = _Trial(each, options=options, wishes=wishes, has_title=len(subjects) > 1)
        with each.prepared():
            try:
                statuses.append(supervised(trial.work))
            except ConfigError as error:
                error.where = settings.place(error.where)
                raise
        tried += trial.tried
        if statuses[-1] not in {0, FAILED}:  # it was interrupted
            return statuses[-1]
    if not tried and max(statuses) == 0:
        raise ConfigError(
            f"no promise has the words {' or '.join(map(repr, wishes.only))}",
            where="--only",
            code="cli.no-promise",
        )
    return max(statuses)


def _check_prerequisites(kinds: Sequence[str], wishes: Wishes) -> None:
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
    if "fetcher" in kinds and not wishes.base:
        raise ConfigError(
            "a fetcher is tried by fetching, and no base is named",
            where="--base",
            hint="name one that there is, as (from …) would: --base debian:bookworm",
            code="cli.no-base",
        )
    from obuilder import testing  # noqa: PLC0415 - what it needs may have been missing

    contracts = [getattr(testing, f"{kind.title()}Contract") for kind in kinds]
    abilities = sorted(
        {name for contract in contracts for name in dir(contract) if name.startswith("can_")}
    )
    for ability in wishes.lacks:
        if ability not in abilities:
            raise ConfigError(
                f"the contract has no ability {ability!r}",
                where="--lacks",
                hint=f"there are: {', '.join(abilities) or 'none'}",
                code="cli.ability",
            )


class _Trial:
    """One run of a contract."""

    def __init__(
        self, subject: Subject, *, options: GlobalOptions, wishes: Wishes, has_title: bool
    ) -> None:
        self._subject = subject
        self._options = options
        self._wishes = wishes
        self._has_title = has_title
        self._ended = False
        self.tried = 0
        self._while = ""

    async def work(self, output: Output) -> int:
        """Try the promises that are wanted, print them, and return the exit status."""
        table = Table(output=output)
        if self._has_title:
            table.line(f"The {self._subject.kind.name}:")
        try:
            await self._subject.open_once()
            completed = await self._run(table)
        finally:
            table.flush()
            with anyio.CancelScope(shield=True):
                await self._subject.remove_rest()
        if self._options.verbose:
            say(completed.stdout.decode("utf-8", "backslashreplace"))
        if not self._ended or completed.returncode not in {_KEPT_ALL, _BROKEN_SOME, _NONE_SELECTED}:
            said = (completed.stdout + completed.stderr).decode("utf-8", "backslashreplace")
            raise ProcessError(
                f"pytest ended with status {completed.returncode}{self._while}: {said[-2000:]}",
                returncode=completed.returncode,
            )
        total = table.kept + table.broken
        table.line(
            f"{total} promise{'' if total == 1 else 's'}: {table.kept} kept, {table.broken} broken"
        )
        self.tried = total
        return FAILED if table.broken else 0

    async def _run(self, table: Table) -> Completed:
        from obuilder._cli.conformance_child import Task  # noqa: PLC0415 - needs pytest

        reader, writer = os.pipe()
        wishes, subject = self._wishes, self._subject
        task = Task(
            kind=subject.kind.name,
            options=self._options,
            location=subject.location,
            base=wishes.base,
            missing_base=wishes.missing_base,
            lacks=wishes.lacks,
            fd=writer,
        )
        words = ["_".join(words.split()) for words in wishes.only]
        selection = ["-k", " or ".join(words)] if words else []
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        results: list[Completed] = []

        async def child() -> None:
            try:
                argv = [*_argv(task.to_json(), subject), *selection]
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
                            subject.made(line["location"])
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


def _argv(task: str, subject: Subject) -> list[str]:
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
        f"--basetemp={subject.directory / 'tests'}",
        f"{suite}::{subject.suite}",
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
