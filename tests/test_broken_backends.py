"""The contracts can fail: each broken backend is caught by the promise that it breaks."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.broken_caches import BROKEN_CACHES
from support.broken_fetchers import BROKEN_FETCHERS
from support.broken_sandboxes import BROKEN_SANDBOXES
from support.broken_stores import BROKEN
from support.broken_streams import BROKEN_STREAMS
from support.leaky_sandboxes import LEAKY_SANDBOXES

from obuilder.testing import FetcherContract, SandboxContract, StoreContract
from obuilder.testing._trees import describe_tree, make_rich_tree

SUITE = Path(__file__).parent / "support" / "broken_suite.py"
CONTRACTS: dict[type, Sequence[type[Any]]] = {
    StoreContract: [*BROKEN, *BROKEN_CACHES, *BROKEN_STREAMS],
    SandboxContract: [*BROKEN_SANDBOXES, *LEAKY_SANDBOXES],
    FetcherContract: BROKEN_FETCHERS,
}
ALL = [(kind.__name__, f"test_{kind.CAUGHT_BY}") for kinds in CONTRACTS.values() for kind in kinds]


# A backend that cannot even be opened keeps no promise, and shows nothing of the suite.
SOUND = "test_it_works_at_all"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str, str]]:
    """How each backend's promise ended, which should fail, and `SOUND`, which should not."""
    tests = [f"{SUITE}::Test{name}::{test}" for name, promise in ALL for test in (promise, SOUND)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "3", "--dist", "loadscope", "-rfp", "--tb=no"]
        + ["-k", "not trio"]
        + [f"--basetemp={tmp_path_factory.mktemp('broken') / 'base'}", *tests],
        capture_output=True,
        text=True,
        check=False,
        timeout=1000,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert " error" not in done.stdout.splitlines()[-1]
    lines = r"^(FAILED|PASSED) \S*::Test(\w+)::(test_\w+)"
    return set(re.findall(lines, done.stdout, re.MULTILINE))


@pytest.mark.timeout(1100)
@pytest.mark.parametrize(("name", "promise"), ALL, ids=[name for name, _ in ALL])
def test_a_broken_backend_is_caught_by_name(
    name: str, promise: str, outcomes: set[tuple[str, str, str]]
) -> None:
    assert ("FAILED", name, promise) in outcomes
    assert ("PASSED", name, SOUND) in outcomes
    assert ("FAILED", name, SOUND) not in outcomes


def test_names_are_told_apart() -> None:
    names = [name for name, _ in ALL]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_promise_has_a_backend_that_breaks_it(contract: type) -> None:
    promises = {name.removeprefix("test_") for name in dir(contract) if name.startswith("test_")}
    broken = {kind.CAUGHT_BY for kind in CONTRACTS[contract]}
    assert broken - promises == set()
    assert promises - broken == set()


def test_a_promise_that_fails_has_little_to_show(tmp_path: Path) -> None:
    """Where CI is set pytest shows all that differs, and compares it line by line."""
    make_rich_tree(tmp_path / "tree")
    before = describe_tree(tmp_path / "tree")
    large = tmp_path / "tree" / "sparse"
    assert len(repr(before)) < large.stat().st_size // 100
    with large.open("r+b") as file:
        file.write(b"x")
    assert describe_tree(tmp_path / "tree")["sparse"] != before["sparse"]
