"""The contract of stores can fail: each broken store is caught by the promise that it breaks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.broken_stores import BROKEN, BrokenStore

from obuilder.testing import StoreContract

SUITE = Path(__file__).parent / "support" / "broken_suite.py"
PROMISES = sorted(
    name.removeprefix("test_") for name in dir(StoreContract) if name.startswith("test_")
)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """`STORE::PROMISE` of what failed, of all that should."""
    tests = [f"{SUITE}::Test{kind.__name__}::test_{kind.CAUGHT_BY}" for kind in BROKEN]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", "-k", "not trio"]
        + [f"--basetemp={tmp_path_factory.mktemp('broken') / 'base'}", *tests],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert " error" not in done.stdout.splitlines()[-1]
    return set(re.findall(r"^FAILED \S*::Test(\w+::test_\w+)", done.stdout, re.MULTILINE))


@pytest.mark.timeout(420)
@pytest.mark.parametrize("kind", BROKEN, ids=[kind.__name__ for kind in BROKEN])
def test_a_broken_store_is_caught_by_name(kind: type[BrokenStore], failed: set[str]) -> None:
    assert f"{kind.__name__}::test_{kind.CAUGHT_BY}" in failed


# Seen on a real full disk and by a whole system's crash alone; no store of a few lines breaks them.
UNBROKEN = {"deletes_that_are_complete_show_in_df"}


def test_every_promise_has_a_store_that_breaks_it() -> None:
    broken = {kind.CAUGHT_BY for kind in BROKEN}
    assert sorted(broken - set(PROMISES)) == []
    assert sorted(set(PROMISES) - broken) == sorted(UNBROKEN)
