"""`obuilder fsck`: what it prints about a store, and its exit status."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from obuilder._cli.app import app

pytestmark = pytest.mark.usefixtures("fakes")

CLEAN = "Checked 3 results and 3 rows: no faults\n"


class Shop:
    """A store with a build in it."""

    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        self.database = self.store / "state/db/db.sqlite"
        self.globals = [f"--store=fakestore:{self.store}", "--sandbox=fakebox"]
        self.globals += ["--fetcher=fakefetch"]
        (root / "src").mkdir()
        (root / "spec").write_text("((from busybox) (shell sh) (run (shell a)) (run (shell b)))")
        self.build_words = ["build", "-f", str(root / "spec"), str(root / "src")]
        done = self.run(*self.build_words)
        assert done.exit_code == 0
        self.ids = [line.split('"')[1] for line in done.stdout.splitlines() if "saved as" in line]

    def run(self, *argv: str) -> Result:
        return CliRunner().invoke(app, [*self.globals, *argv])

    def fsck(self, *argv: str) -> tuple[int, list[str]]:
        done = self.run("fsck", *argv)
        assert done.stderr == ""
        return done.exit_code, done.stdout.splitlines()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Shop(tmp_path)


def test_a_clean_store_takes_one_line(shop: Shop) -> None:
    done = shop.run("fsck")
    assert (done.exit_code, done.stdout, done.stderr) == (0, CLEAN, "")
    assert CliRunner().invoke(app, ["fsck", *shop.globals]).stdout == CLEAN


def test_each_fault_takes_a_line_and_the_status_is_1_until_it_is_repaired(shop: Shop) -> None:
    gone = shop.ids[2]
    shutil.rmtree(shop.store / "result" / gone)
    (shop.store / "cache-tmp" / "1-c").mkdir()
    missing = "the database knows it, the store does not have it (repair: its row is removed)"
    copy = "a cache copy that a dead builder left (repair: it is removed)"
    lines = [f"fsck.missing-result {gone}: {missing}", f"fsck.leftover-cache-copy copy-1-c: {copy}"]
    assert shop.fsck() == (1, [*lines, "Checked 2 results and 3 rows: 2 faults"])
    assert shop.fsck() == (1, [*lines, "Checked 2 results and 3 rows: 2 faults"])
    status, printed = shop.fsck("--repair")
    assert status == 0
    assert [line.endswith("(repaired)") for line in printed] == [True, True, False]
    assert printed[-1] == "Checked 2 results and 2 rows: no faults, 2 repaired"
    assert shop.fsck() == (0, ["Checked 2 results and 2 rows: no faults"])
    assert shop.run(*shop.build_words).exit_code == 0
    assert shop.run("fsck").stdout == CLEAN


def test_what_cannot_be_repaired_says_why_and_the_status_is_1(shop: Shop) -> None:
    (shop.store / "result" / shop.ids[0] / "log").unlink()
    (shop.store / "result-tmp" / shop.ids[2]).mkdir()
    status, printed = shop.fsck("--repair")
    assert status == 1
    assert printed[0].startswith("fsck.leftover-result")
    assert printed[1].endswith(
        f"(not repaired: 1 results were built on it; with them it is removed by"
        f" `delete {shop.ids[0]}`)"
    )
    assert printed[2] == "Checked 3 results and 3 rows: 1 fault, 1 repaired"


def test_a_damaged_database_is_made_anew(shop: Shop) -> None:
    shop.database.write_bytes(b"no database\n" * 500)
    status, printed = shop.fsck()
    assert status == 1
    assert printed[0].startswith("fsck.database db.sqlite: ")
    assert "obuilder fsck --rebuild-db" in printed[0]
    assert printed[1] == "Checked 3 results: 1 fault"
    assert shop.run("delete", shop.ids[2]).exit_code == 3
    status, printed = shop.fsck("--rebuild-db")
    assert status == 0
    assert printed[0].startswith(f"Note: the old database is {shop.database}.damaged-")
    assert f"{printed[1]}\n" == CLEAN
    assert shop.run("delete", shop.ids[0]).exit_code == 0


def test_the_database_of_a_newer_obuilder_is_not_made_anew(shop: Shop) -> None:
    with closing(sqlite3.connect(shop.database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    done = shop.run("fsck", "--rebuild-db", "--repair")
    assert done.exit_code == 3
    assert done.stdout == ""
    assert "upgrade obuilder" in done.stderr


def test_a_name_with_control_characters_stays_one_line(shop: Shop) -> None:
    (shop.store / "result" / "a\n\x1b[31mb").mkdir()
    status, printed = shop.fsck()
    assert status == 1
    assert printed[0].startswith("fsck.foreign-result a??[31mb: ")


def test_an_unknown_option_is_a_usage_error(shop: Shop) -> None:
    assert shop.run("fsck", "--fix").exit_code == 2


def test_help_lists_it(shop: Shop) -> None:
    assert "fsck" in shop.run("--help").stdout
    printed = shop.run("fsck", "--help").stdout
    assert "--repair" in printed
    assert "--rebuild-db" in printed
