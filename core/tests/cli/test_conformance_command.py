"""`obuilder conformance` tries configured backends and leaves nothing, of its own or of others."""

from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from obuilder._cli.app import app

Install = Callable[..., None]
pytestmark = pytest.mark.usefixtures("fakes")

STUBBORN = """
from contextlib import asynccontextmanager
from fakes import FakeStore
from obuilder.errors import StoreError

class Stubborn(FakeStore):
    API = 1
    Config = FakeStore.Config
    parents = {}

    @asynccontextmanager
    async def build(self, id, *, base=None):
        async with super().build(id, base=base) as path:
            yield path
        self.parents[id] = base

    async def delete(self, id):
        if id in self.parents.values():
            raise StoreError(f"{id} has children")
        self.parents.pop(id, None)
        await super().delete(id)
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("OBUILDER_STORE", raising=False)


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, ["conformance", *argv])


def test_kept_and_broken_promises_are_told_and_nothing_remains(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "mine").write_text("mine")
    some = ("--only", "build is saved", "--only", "three generations")
    result = run(f"--store=fakestore:{pool}", *some)
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert "kept    a build is saved with its log" in lines
    assert "BROKEN  everything in a tree survives three generations" in lines
    assert lines[-1] == "2 promises: 1 kept, 1 broken"
    why = lines[lines.index("BROKEN  everything in a tree survives three generations") + 1]
    assert why.startswith("        ")
    assert [path.name for path in pool.iterdir()] == ["mine"]


def test_a_location_that_was_not_there_is_gone_again(tmp_path: Path) -> None:
    result = run(f"--store=fakestore:{tmp_path}/new/pool", "--only", "df is a percentage")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "1 promise: 1 kept, 0 broken"
    assert not (tmp_path / "new").exists()


def test_an_ability_that_is_not_claimed_is_not_demanded(tmp_path: Path, install: Install) -> None:
    points = {"obuilder.stores": {"stubborn": "stubborn_module:Stubborn"}}
    install("acme-stubborn", points, {"stubborn_module": STUBBORN})
    argv = (f"--store=stubborn:{tmp_path}/pool", "--only", "middle of a chain")
    demanded = run(*argv)
    assert demanded.exit_code == 1
    assert "has children" in demanded.stdout
    assert run(*argv, "--lacks", "can_delete_middle").exit_code == 0
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_store_that_ends_the_process_is_never_taken_for_a_good_one(
    end: str, tmp_path: Path, install: Install
) -> None:
    source = f"""
    import os
    from fakes import FakeStore

    class Deadly(FakeStore):
        API = 1
        Config = FakeStore.Config

        async def df(self):
            {end}
    """
    points = {"obuilder.stores": {"deadly": "deadly_module:Deadly"}}
    install("acme-deadly", points, {"deadly_module": source})
    some = ("--only", "odd cache names", "--only", "df is a percentage")
    result = run(f"--store=deadly:{tmp_path}/pool", *some)
    assert result.exit_code == 3
    assert "kept    odd cache names" in result.stdout
    assert "promises:" not in result.stdout
    assert "internal error" not in result.stderr
    assert not (tmp_path / "pool").exists()


def test_options_that_json_lacks_reach_the_helper_processes(
    tmp_path: Path, install: Install
) -> None:
    source = """
    from contextlib import asynccontextmanager
    from dataclasses import dataclass
    from pathlib import Path
    from fakes import FakeStore

    class Choosy(FakeStore):
        API = 1

        @dataclass(frozen=True, kw_only=True)
        class Config:
            key: Path | None = None
            hosts: tuple[str, ...] = ()

        @classmethod
        @asynccontextmanager
        async def open(cls, location, config):
            assert (config.key, config.hosts) == (Path("/etc/key"), ("a", "b"))
            yield cls(Path(location))
    """
    points = {"obuilder.stores": {"choosy": "choosy_module:Choosy"}}
    install("acme-choosy", points, {"choosy_module": source})
    result = run(
        f"--store=choosy:{tmp_path}/pool",
        *("-o", "choosy.key=/etc/key", "-o", 'choosy.hosts=["a", "b"]'),
        *("--only", "opening leaves alone"),
    )
    assert result.stdout.splitlines()[-1] == "1 promise: 1 kept, 0 broken"


def test_the_drivers_options_are_those_of_the_settings(tmp_path: Path) -> None:
    result = run(f"--store=fakestore:{tmp_path}/pool", "-o", "fakestore.mode=no", "--only", "df")
    assert result.exit_code == 2
    assert "fakestore.mode" in result.stderr


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--store=none:/x",), "store 'none' is not installed"),
        (("--store=fakestore:/x", "--lacks", "can_fly"), "can_delete_middle"),
        (("--store=fakestore:/proc/no",), "cannot make a store in /proc/no"),
    ],
)
def test_what_cannot_be_tried_is_a_usage_error(argv: tuple[str, ...], part: str) -> None:
    result = run(*argv)
    assert result.exit_code == 2, result.output
    assert part in result.stderr


def test_words_that_no_promise_has_are_a_usage_error(tmp_path: Path) -> None:
    result = run(f"--store=fakestore:{tmp_path}/pool", "--only", "colour of money")
    assert result.exit_code == 2
    assert "no promise has the words 'colour of money'" in result.stderr
    assert not (tmp_path / "pool").exists()
    both = (f"--store=fakestore:{tmp_path}/pool", "--sandbox=fakebox")
    assert run(*both, "--only", "colour of money").exit_code == 2


def test_a_missing_part_of_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        "obuilder._cli.conformance.find_spec", lambda name: None if name == "trio" else find(name)
    )
    result = run(f"--store=fakestore:{tmp_path}/pool")
    assert result.exit_code == 2
    assert "needs trio" in result.stderr
    assert "pip install 'obuilder[testing]'" in result.stderr


def test_a_sandbox_is_tried_by_itself_and_beside_a_store(tmp_path: Path) -> None:
    only = ("--only", "any other network", "--only", "df is a percentage")
    result = run("--sandbox=fakebox", *only)
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "BROKEN  any other network is refused"
    assert lines[-1] == "1 promise: 0 kept, 1 broken"
    result = run("--sandbox=fakebox", f"--store=fakestore:{tmp_path}/pool", *only)
    assert result.exit_code == 1, result.output
    assert result.stdout.splitlines() == [
        "The store:",
        "kept    df is a percentage",
        "1 promise: 1 kept, 0 broken",
        "The sandbox:",
        *lines,
    ]
    assert not (tmp_path / "pool").exists()


def test_what_a_sandbox_left_mounted_is_not_emptied(tmp_path: Path, install: Install) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("kept")
    source = f"""
    import subprocess
    from fakes import FakeSandbox

    class Leaky(FakeSandbox):
        API = 1
        Config = FakeSandbox.Config

        async def run(self, config, rootfs, *, log, stdin=None):
            place = rootfs.parent / "leaked"
            place.mkdir()
            subprocess.run(["mount", "--bind", "{victim}", str(place)], check=True)
    """
    points = {"obuilder.sandboxes": {"leaky": "leaky_module:Leaky"}}
    install("acme-leaky", points, {"leaky_module": source})
    result = run("--sandbox=leaky", "--only", "any other network")
    assert result.exit_code == 1, result.output
    assert (victim / "precious").read_text() == "kept"
    assert str(victim) not in Path("/proc/self/mountinfo").read_text()
    assert "obuilder-conformance-" not in Path("/proc/self/mountinfo").read_text()


def test_a_fetcher_is_tried_with_the_base_that_is_named() -> None:
    result = run("--fetcher=fakefetch")
    assert result.exit_code == 2
    assert "--base" in result.stderr
    only = ("--only", "fills the root", "--only", "missing base")
    result = run("--fetcher=fakefetch", "--base", "busybox", *only)
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "kept    a base fills the root",
        "BROKEN  a missing base is a fetch error",
        "2 promises: 1 kept, 1 broken",
    ]


def test_help_says_what_happens_to_a_store() -> None:
    text = " ".join(run("--help").stdout.split())
    assert "Existing results are not touched" in text
    assert "obuilder-conformance-" in text
