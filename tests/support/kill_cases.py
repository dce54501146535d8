"""An operation, killed at every `OBUILDER_KILL_STRIDE`-th of its durable steps, from any one on.

OBUILDER_SEED is the seed of where it begins.
"""

import itertools
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.kill_checks import look_at, verify, wrong_after, wrong_at_last
from support.kill_operations import OPERATIONS, run_operation
from support.kill_places import Place
from support.kill_points import in_process

__all__ = ["CHOSEN", "LIMIT", "Site", "cases", "kill_at_its_steps"]

CHOSEN = os.environ.get("OBUILDER_KILL_STORES")
STRIDE = int(os.environ.get("OBUILDER_KILL_STRIDE", "41"))
SEED = int(os.environ.get("OBUILDER_SEED", "1"))
LIMIT = pytest.mark.timeout(7200 // STRIDE + 60)
OF_OBUILDER = {"rsync", "btrfs"}
"""Stores that it can have made, so that they can be migrated."""


def cases(drivers: Sequence[str]) -> list[tuple[str, str]]:
    """Each store with each operation that there is for it."""
    return [
        (driver, name)
        for driver in drivers
        for name in OPERATIONS
        if name != "migrate" or driver in OF_OBUILDER
    ]


@dataclass(frozen=True)
class Site:
    """Where stores of a driver lie, with the templates that its operations share."""

    driver: str
    directory: Path
    templates: dict[Callable[[Place], None], Place] = field(default_factory=dict)

    def place(self, name: str) -> Place:
        return Place(driver=self.driver, directory=self.directory / name, backend="asyncio")

    def template(self, make: Callable[[Place], None]) -> Place:
        if make not in self.templates:
            template = self.place(f"template-{make.__name__}")
            template.make()
            make(template)
            self.templates[make] = template
        return self.templates[make]

    def remove(self) -> None:
        for template in self.templates.values():
            template.remove()


def kill_at_its_steps(site: Site, name: str) -> None:
    """After each kill the next finds all whole, or not there, and does what it did without."""
    operation = OPERATIONS[name]
    template = site.template(operation.template)
    undisturbed = copy = template.copied(site.place("undisturbed").directory)
    before = look_at(copy, opening=False) if copy.root.exists() else {}
    if operation.prepare:
        operation.prepare(copy)
    outcome = in_process(run_operation, name, undisturbed, watched=[]).value
    good = look_at(undisturbed)
    undisturbed.remove()
    wrong: list[str] = []
    tried = 0

    def try_step(last: int) -> list[str] | None:
        """What is wrong after a kill at a step; None if there are not so many."""
        copy = template.copied(site.place(f"{name}-{last}").directory)
        if operation.prepare:
            operation.prepare(copy)
        ended = in_process(run_operation, name, copy, last=last, watched=[copy.directory])
        found = None
        if ended.killed_at:
            try:
                verified = in_process(verify, name, copy, watched=[]).value
            except AssertionError as error:
                found = [str(error)]
            else:
                found = wrong_after(verified, before, good, mends=operation.mends)
                found += wrong_at_last(verified, good, outcome)
            found = [f"killed at step {last}, {ended.killed_at}: {each}" for each in found]
        copy.remove()
        return found

    begin = 1 + random.Random(f"{SEED}-{name}").randrange(STRIDE)
    for last in itertools.count(begin, STRIDE):
        found = try_step(last)
        if found is None:
            break
        tried += 1
        wrong += found
    told = f"{name} on {template.driver}: {tried} kill points, one of {STRIDE}, seed {SEED}"
    sys.stdout.write(f"{told}\n")
    assert not wrong, "\n".join([told, *wrong])
