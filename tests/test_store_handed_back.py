"""A store that we wrote has OBuilder 0.7's schema and layout, and survives its being carried on.

OBuilder itself is not run: its statements are, over our database, with foreign
keys off (as it has them) and on.
"""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.command import Command
from support.golden_store import Entry, golden
from support.obuilder_store import listing, subvolume

BASE = "archive:busybox.tar"
SPEC = f"""((build tools ((from {BASE}) (shell /bin/sh -c)
   (run (shell "mkdir /out && echo tool > /out/tool"))))
 (from {BASE}) (shell /bin/sh -c)
 (copy (from (build tools)) (src /out/tool) (dst /opt/bin/tool))
 (user (uid 1000) (gid 1000))
 (run (cache (demo-cache (target /home/cache))) (shell "echo x >> /home/cache/n"))
 (user (uid 0) (gid 0))
 (run (shell "cat /opt/bin/tool")))
"""
ADDED = {  # docs/compatibility.md lists these
    "result/ID/obuilder.json",
    "state/caches",
    "state/locks",
    "state/publishing",
    "state/reserve",
    "state/reserve-files",
    "state/reserve-files/NUMBER",
    "state/sandboxes",
    "state/sandboxes/runc",
    "state/scratch",
}


class Statements:
    """What OBuilder tells SQLite."""

    def __init__(self, path: Path, *, foreign_keys: bool) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
        script = golden("btrfs").script.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
        for table in re.findall(r"^(CREATE TABLE.*?);$", script, re.MULTILINE | re.DOTALL):
            self._db.execute(table)
        self._db.execute("CREATE INDEX IF NOT EXISTS lru ON builds (rc, used)")

    def close(self) -> None:
        self._db.close()

    def add(self, id: str, parent: str | None, *, verb: str = "INSERT") -> None:
        self._db.execute("BEGIN TRANSACTION")
        self._db.execute(
            f"{verb} INTO builds (id, created, used, rc, parent) VALUES (?, ?, ?, 0, ?)",
            (id, now(), now(), parent),
        )
        if parent:
            self._db.execute("UPDATE builds SET rc = rc + ? WHERE id = ?", (1, parent))
        self._db.execute("COMMIT")

    def set_used(self, id: str) -> int:
        changed = self._db.execute("UPDATE builds SET used = ? WHERE id = ?", (now(), id))
        return changed.rowcount

    def children(self, id: str) -> list[str]:
        known = self._db.execute("SELECT EXISTS(SELECT 1 FROM builds WHERE id = ?)", (id,))
        assert known.fetchone() == (1,)
        return [row[0] for row in self._db.execute("SELECT id FROM builds WHERE parent = ?", (id,))]

    def unused(self, before: str, limit: int) -> list[str]:
        query = "SELECT id FROM builds WHERE rc = 0 AND used < ? ORDER BY used ASC LIMIT ?"
        return [row[0] for row in self._db.execute(query, (before, limit))]

    def delete(self, id: str) -> None:
        self._db.execute("BEGIN TRANSACTION")
        ((parent,),) = self._db.execute("SELECT parent FROM builds WHERE id = ?", (id,))
        self._db.execute("DELETE FROM builds WHERE id = ?", (id,))
        if parent:
            self._db.execute("UPDATE builds SET rc = rc + ? WHERE id = ?", (-1, parent))
        self._db.execute("COMMIT")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


@dataclass
class Site:
    """A store in which our command has built SPEC; `ids` in the order of their rows."""

    command: Command
    driver: str
    root: Path
    ids: list[str]

    @property
    def database(self) -> Path:
        return self.root / "state/db/db.sqlite"

    def build(self) -> str:
        spec = self.command.directory / "spec"
        spec.write_text(SPEC)
        done = self.command("build", "-f", str(spec), str(self.command.source))
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def remove_directory(self, id: str) -> None:
        """As OBuilder does, each store in its way."""
        if self.driver == "btrfs":
            subvolume("subvolume", "delete", "--", str(self.root / "result" / id))
        else:
            shutil.rmtree(self.root / "result" / id)

    def make_again(self, id: str) -> None:
        """A result that OBuilder made: without our file, or with the one of its base."""
        path = self.root / "result" / id
        if self.driver == "btrfs":
            subvolume("subvolume", "create", str(path))
        else:
            path.mkdir()
        (path / "rootfs").mkdir()
        (path / "env").write_text("((env ((PATH /bin))))")
        (path / "log").touch()

    def check(self) -> None:
        wrong = self.rows(
            "SELECT id FROM builds AS each"
            " WHERE rc != (SELECT count(*) FROM builds WHERE parent = each.id)"
        )
        assert wrong == []
        assert self.rows("PRAGMA foreign_key_check") == []


@pytest.fixture(params=["btrfs", "rsync"])
def site(request: pytest.FixtureRequest, tmp_path: Path, busybox_archive: Path) -> Iterator[Site]:
    root = tmp_path / "store"
    if request.param == "btrfs":
        root = request.getfixturevalue("btrfs_root") / "store"
    (tmp_path / "src").mkdir()
    shutil.copy(busybox_archive, tmp_path / "busybox.tar")
    made = Site(Command(tmp_path, f"{request.param}:{root}"), request.param, root, [])
    made.build()
    made.ids += [str(row[0]) for row in made.rows("SELECT id FROM builds ORDER BY rowid")]
    yield made
    if request.param == "rsync":
        shutil.rmtree(root)


@pytest.fixture(params=[False, True], ids=["keys-off", "keys-on"])
def obuilder_on(request: pytest.FixtureRequest, site: Site) -> Iterator[Statements]:
    statements = Statements(site.database, foreign_keys=request.param)
    yield statements
    statements.close()


def test_the_layout_is_obuilders_apart_from_what_we_add(site: Site) -> None:
    def shape(entries: list[Entry]) -> set[str]:
        return {re.sub(r"[0-9a-f]{64}", "ID", str(entry)) for entry in entries}

    def place(entry: Entry) -> str:
        numbered = re.sub(r"(?<=reserve-files/)\d+", "NUMBER", entry.path)
        return re.sub(r"[0-9a-f]{64}", "ID", numbered)

    ours = [entry for entry in listing(site.root) if not entry.path.startswith("state/caches/")]
    additions = {entry for entry in ours if place(entry) in ADDED}
    theirs = [entry for entry in golden(site.driver).entries if entry.path != "state/sandbox"]
    assert shape(sorted(set(ours) - additions)) == shape(theirs)
    assert {entry.owner for entry in additions} == {"0:0"}


def test_no_directory_of_ours_is_taken_for_a_container(site: Site) -> None:
    # OBuilder tells runc to delete whatever is there, and stops if that fails.
    containers = site.root / "state/sandbox"
    assert not containers.exists() or os.listdir(containers) == []


def test_the_environment_is_written_as_obuilder_writes_it(site: Site) -> None:
    written = (site.root / "result" / site.ids[0] / "env").read_bytes()
    assert (
        written == b"((env ((PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin))))"
    )


def test_schema_pragmas_and_values_are_obuilders(site: Site, tmp_path: Path) -> None:
    theirs = Site(replace(site.command), site.driver, tmp_path / "theirs", [])
    theirs.database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(theirs.database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(golden(site.driver).script)
    for query in (
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE tbl_name = 'builds'",
        "SELECT * FROM pragma_table_info('builds')",
        "SELECT * FROM pragma_foreign_key_list('builds')",
        "SELECT DISTINCT typeof(id), typeof(created), typeof(used), typeof(rc) FROM builds",
        "SELECT DISTINCT typeof(parent) FROM builds ORDER BY 1",
        "SELECT DISTINCT length(created), length(used) FROM builds",
        "PRAGMA journal_mode",
        "PRAGMA page_size",
        "PRAGMA encoding",
    ):
        assert site.rows(query) == theirs.rows(query), query
    pattern = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    assert all(pattern.fullmatch(str(row[0])) for row in site.rows("SELECT created FROM builds"))
    assert site.rows("SELECT name FROM sqlite_schema WHERE type = 'trigger'") == []


def test_obuilder_carries_the_database_on(site: Site, obuilder_on: Statements) -> None:
    leaf, child = site.ids[-1], "e" * 64
    assert obuilder_on.set_used(leaf) == 1
    obuilder_on.add(child, leaf)
    assert obuilder_on.children(leaf) == [child]
    assert set(obuilder_on.unused("2100-01-01 00:00:00", 10)) == {site.ids[1], child}
    site.check()
    obuilder_on.delete(child)
    site.check()
    assert set(obuilder_on.unused("2100-01-01 00:00:00", 10)) == {site.ids[1], leaf}
    assert "saved as" not in site.build()


def test_what_obuilder_deleted_is_made_again_with_a_record_of_its_own(
    site: Site, obuilder_on: Statements
) -> None:
    leaf = site.ids[-1]
    before = site.rows(f"SELECT duration_s FROM obuilder_steps WHERE id = '{leaf}'")
    site.remove_directory(leaf)
    obuilder_on.delete(leaf)
    assert f'saved as "{leaf}"' in site.build()
    after = site.rows(f"SELECT duration_s FROM obuilder_steps WHERE id = '{leaf}'")
    assert len(before) == len(after) == 1
    assert before != after
    site.check()


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE"])
def test_what_obuilder_made_anew_keeps_nothing_of_our_record(
    site: Site, obuilder_on: Statements, verb: str
) -> None:
    base = site.ids[0]
    with closing(sqlite3.connect(site.database, isolation_level=None)) as connection:
        # Were it believed, no build could use the new one.
        connection.execute("UPDATE obuilder_steps SET platform = 'linux/s390x'")
    for id in reversed(site.ids):
        site.remove_directory(id)
        obuilder_on.delete(id)
    site.make_again(base)
    obuilder_on.add(base, None, verb=verb)
    spec = site.command.directory / "base.spec"
    spec.write_text(f"((from {BASE}))")
    done = site.command("build", "-f", str(spec), str(site.command.source))
    assert done.returncode == 0, done.stderr
    assert f'using "{base}" from cache'.encode() in done.stdout
    assert site.rows(f"SELECT * FROM obuilder_steps WHERE id = '{base}'") == []


def test_a_base_of_another_platform_is_refused_as_long_as_it_is_ours(site: Site) -> None:
    with closing(sqlite3.connect(site.database, isolation_level=None)) as connection:
        connection.execute("UPDATE obuilder_steps SET platform = 'linux/s390x'")
    done = site.command(
        "build", "-f", str(site.command.directory / "spec"), str(site.command.source)
    )
    assert done.returncode == 1
    assert b"is for linux/s390x" in done.stderr


def test_records_of_what_obuilder_deleted_go_with_the_next_prune(
    site: Site, obuilder_on: Statements
) -> None:
    leaf = site.ids[-1]
    site.remove_directory(leaf)
    obuilder_on.delete(leaf)
    assert site.command("prune", "--before", "2020-01-01").returncode == 0
    assert site.rows("SELECT id FROM obuilder_steps EXCEPT SELECT id FROM builds") == []
    site.check()


def test_a_clone_that_obuilder_made_of_our_result_inherits_no_record(
    site: Site, obuilder_on: Statements
) -> None:
    leaf, child = site.ids[-1], "e" * 64
    theirs = site.root / "result" / child
    if site.driver == "btrfs":
        subvolume("subvolume", "snapshot", "-r", str(site.root / "result" / leaf), str(theirs))
    else:
        shutil.copytree(site.root / "result" / leaf, theirs, symlinks=True)
    obuilder_on.add(child, leaf)
    assert (theirs / "obuilder.json").exists()
    site.build()
    assert site.rows(f"SELECT * FROM obuilder_steps WHERE id = '{child}'") == []
    assert site.command("delete", leaf).stdout.decode().splitlines()[-1] == "Removed 2 items"
    site.check()
