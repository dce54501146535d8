"""The checker of a store: finds what is wrong, repairs it if asked, and looks again."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from obuilder._core.checker.findings import Finding, Report
from obuilder._core.checker.mending import Mender
from obuilder._core.checker.rebuild import rebuild
from obuilder._core.checker.survey import Survey
from obuilder._core.database.connection import naming_errors
from obuilder._core.database.db import database_file
from obuilder._core.database.guard import sharing
from obuilder._core.disk import disk_errors
from obuilder.interfaces import Sandbox, Store
from obuilder.locks import Locks

__all__ = ["Checker"]

_MOST_ROUNDS = 20
"""Builders that keep dying beside it would give it work for ever."""


class Checker:
    """Checks a store that may be in use. Unlike a `Builder` it puts nothing in order unasked."""

    def __init__(self, store: Store[Any], sandbox: Sandbox[Any]) -> None:
        """StoreError if the store cannot be used."""
        with disk_errors(store.state_dir):
            locks = Locks(store.state_dir / "locks")
        self._store = store
        self._sandbox = sandbox
        self._locks = locks
        self._mender = Mender(store, sandbox, locks)

    async def check(self, *, repair: bool = False) -> Report:
        """What is wrong with the store; with `repair` also what was repaired, and what was not.

        Without `repair` nothing changes. Whatever a live process uses is neither
        told of nor touched. BackendError if the store cannot be looked at.
        """
        with disk_errors(self._store.state_dir):
            return await self._checked(repair=repair)

    async def _checked(self, *, repair: bool) -> Report:
        report = await self._look()
        repaired: list[Finding] = []
        reasons: dict[tuple[str, str, str], str] = {}
        # A repair may bring to light what it was hiding.
        for _ in range(_MOST_ROUNDS if repair else 0):
            before, reasons = report.findings, dict(await self._mender.mend(report.findings))
            report = await self._look()
            left = {finding.identity for finding in report.findings}
            done = [each for each in before if each.identity not in left]
            repaired += [replace(each, repaired=True) for each in done]
            if not done:
                break
        remaining = [replace(each, why_not=reasons.get(each.identity)) for each in report.findings]
        return replace(report, findings=(*repaired, *remaining))

    async def _look(self) -> Report:
        path = database_file(self._store.state_dir)
        with ExitStack() as looking:
            if path.parent.is_dir():
                # While it is made anew there is none for a moment.
                with naming_errors(path):
                    looking.enter_context(sharing(path.parent))
            return await Survey(self._store, self._sandbox, self._locks).report()

    async def rebuild_database(self) -> tuple[str, ...]:
        """Make the database anew from the results alone; returns what there is to tell.

        The old one is put aside in its directory. DatabaseError if somebody else
        has it open or works in the store, or if a newer obuilder wrote it;
        StoreError if the store cannot list its results. Then nothing has changed.
        """
        with disk_errors(self._store.state_dir):
            return tuple(await rebuild(self._store, self._locks))
