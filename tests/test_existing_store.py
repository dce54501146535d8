"""A store that OBuilder 0.7 made is used as it is: found, replayed, continued."""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command import Command
from support.golden_store import DEMO_SPEC, SECRET, demo_ids, golden
from support.obuilder_store import DemoStore, listing, subvolume

MORE = """
 (shell /bin/sh -c)
 (run (cache (demo-cache (target /home/cache)))
      (shell "ls /; cat /home/cache/n; echo y >> /home/cache/n"))"""


@dataclass
class Site:
    """OBuilder's store, the demo's tree, and our command without a Docker engine."""

    store: DemoStore
    command: Command

    def build(self, more: str = "", *options: str) -> str:
        spec = self.command.directory / "demo.spec"
        spec.write_text(DEMO_SPEC.format(more=more))
        secret = self.command.directory / "tok"
        secret.write_text(SECRET)
        done = self.command(
            *("build", "-f", str(spec), f"--secret=tok:{secret}", *options),
            str(self.command.source),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def run(self, *words: str) -> str:
        done = self.command(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def rows(self, query: str = "SELECT * FROM builds ORDER BY rowid") -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.store.database)) as connection:
            return connection.execute(query).fetchall()

    def check_counts(self) -> None:
        """Each row's `rc` is the number of its children, and every parent is there."""
        wrong = self.rows(
            "SELECT id, rc, parent FROM builds AS each"
            " WHERE rc != (SELECT count(*) FROM builds WHERE parent = each.id)"
        )
        assert wrong == []
        assert self.rows("PRAGMA foreign_key_check") == []
        assert self.rows("SELECT id FROM obuilder_steps EXCEPT SELECT id FROM builds") == []


@pytest.fixture(params=["btrfs", "rsync"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "btrfs":
        root = request.getfixturevalue("btrfs_root") / "pool"
    else:
        root = tmp_path / "store"
    root.mkdir()
    source = tmp_path / "src"
    store = DemoStore.make(request.param, root, source)
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/no-engine"}
    yield Site(store, Command(tmp_path, f"{request.param}:{root}", env=nowhere))
    if request.param == "rsync":
        shutil.rmtree(root)


def last_id(output: str) -> str:
    return str(re.findall(r'^Got: "(\w+)"$', output, re.MULTILINE)[0])


def identities(root: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and contents of each result's files, and of the caches."""
    paths = [*root.glob("result/*/*"), *root.glob("result/*/rootfs/*"), *root.glob("cache/*/*")]
    return {
        str(path.relative_to(root)): (
            path.lstat().st_ino,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in paths
    }


@pytest.mark.parametrize("driver", ["btrfs", "rsync"])
def test_the_demo_spec_has_the_ids_that_obuilder_gave_its_steps(driver: str) -> None:
    ids = golden(driver).ids
    assert demo_ids(ids[3]) == ids  # the fourth is the copy, of files that we do not have


def test_the_fixture_has_the_names_modes_and_owners_of_the_golden_listing(site: Site) -> None:
    files = [entry for entry in listing(site.store.root) if "db.sqlite-" not in entry.path]
    assert files == site.store.golden.entries
    beside = {each.name for each in site.store.database.parent.iterdir()}
    assert beside == {"db.sqlite", "db.sqlite-shm", "db.sqlite-wal"}


def test_every_step_comes_from_the_cache_with_its_log_and_nothing_runs(site: Site) -> None:
    runtime = site.command.directory / "runtime"
    runtime.write_text(f"#!/bin/sh\ntouch {runtime}.ran\nexit 1\n")
    runtime.chmod(0o755)
    printed = site.build("", "-o", f"runc.runtime={runtime}")
    was = site.store.golden.output
    assert printed == re.sub(r'---> saved as ("\w+")', r"---> using \1 from cache", was)
    assert not Path(f"{runtime}.ran").exists()


def test_nothing_is_lost_moved_or_renamed(site: Site) -> None:
    root = site.store.root
    names, contents = listing(root), identities(root)
    rows = site.rows("SELECT id, created, rc, parent FROM builds ORDER BY rowid")
    site.build()
    assert identities(root) == contents
    gone = {entry for entry in names if "db.sqlite-" not in entry.path} - set(listing(root))
    assert gone == set()
    assert site.rows("SELECT id, created, rc, parent FROM builds ORDER BY rowid") == rows
    added = {entry.path for entry in listing(root)} - {entry.path for entry in names}
    assert {path for path in added if not path.startswith("state/")} == set()
    assert {path for path in added if path.startswith("state/sandbox/")} == set()


def test_a_step_on_a_result_of_obuilder_continues_its_database(site: Site) -> None:
    last = site.store.golden.ids[-1]
    printed = site.build(MORE)
    ours = last_id(printed)
    assert f'---> saved as "{ours}"' in printed
    assert "\nmade-6\n" in printed
    assert site.rows()[-1][0] == ours
    assert [row[4] for row in site.rows() if row[0] == ours] == [last]
    assert [row[3] for row in site.rows() if row[0] == last] == [1]
    site.check_counts()
    assert f'---> using "{ours}" from cache' in site.build(MORE)
    assert len(site.rows()) == 8
    site.check_counts()
    site.build(MORE.replace("ls /;", ""))
    assert [row[3] for row in site.rows() if row[0] == last] == [2]
    site.check_counts()


def test_counts_stay_right_while_results_are_deleted(site: Site) -> None:
    ours = last_id(site.build(MORE))
    assert site.run("delete", ours).endswith("Removed 1 item\n")
    site.check_counts()
    assert len(site.rows()) == 7
    ours = last_id(site.build(MORE))
    third = site.store.golden.ids[4]
    assert site.run("delete", third).splitlines() == [
        *(f"Removing {id}" for id in (ours, *reversed(site.store.golden.ids[4:]))),
        "Removed 4 items",
    ]
    site.check_counts()
    assert sorted(os.listdir(site.store.root / "result")) == sorted(site.store.golden.ids[:4])


def test_counts_stay_right_while_results_are_pruned(site: Site) -> None:
    ids = site.store.golden.ids
    ours = last_id(site.build(MORE))
    with closing(sqlite3.connect(site.store.database, isolation_level=None)) as connection:
        connection.execute("UPDATE builds SET used = '2020-01-01 00:00:00' WHERE id = ?", (ids[1],))
        connection.execute("UPDATE builds SET used = '2020-01-02 00:00:00' WHERE id = ?", (ours,))
    printed = site.run("prune", "--before", "2020-02-01")
    assert printed.splitlines() == [f"Removing {ids[1]}", f"Removing {ours}", "Removed 2 items"]
    site.check_counts()
    assert site.run("prune", "--before", "2100-01-01", "--limit", "2").endswith("2 items\n")
    site.check_counts()


def test_clean_empties_the_store(site: Site) -> None:
    site.build(MORE)
    assert site.run("clean").splitlines()[-1] == "Removed 9 items"  # 7 of OBuilder's, ours, a cache
    assert site.rows() == []
    for name in ("result", "result-tmp", "cache", "cache-tmp"):
        assert os.listdir(site.store.root / name) == []


def test_only_our_own_results_have_a_record(site: Site) -> None:
    ours = last_id(site.build(MORE))
    assert site.rows("SELECT id FROM obuilder_steps") == [(ours,)]
    kept = {path.parent.name for path in site.store.root.glob("result/*/obuilder.json")}
    assert kept == {ours}


def test_the_cache_is_used_and_its_new_version_has_its_name(site: Site) -> None:
    assert "\nx\n" in site.build(MORE)
    assert (site.store.cache / "n").read_text() == "x\ny\n"
    owner = site.store.cache.stat()
    assert (owner.st_uid, owner.st_gid) == (1000, 1000)
    assert "\nx\ny\n" in site.build(MORE.replace("ls /", "ls /bin"))
    assert (site.store.cache / "n").read_text() == "x\ny\ny\n"
    assert os.listdir(site.store.root / "cache") == [site.store.cache.name]
    assert os.listdir(site.store.root / "cache-tmp") == []


def test_a_cache_of_obuilder_that_is_writable_is_used_too(site: Site) -> None:
    if site.store.driver == "btrfs":
        subvolume("property", "set", "-ts", str(site.store.cache), "ro", "false")
    site.build(MORE)
    assert (site.store.cache / "n").read_text() == "x\ny\n"


def test_names_that_obuilder_escapes_on_btrfs_are_found_and_others_made_anew(site: Site) -> None:
    name = r"a b/é\"%"
    escaped = "a%20b%2f%c3%a9%22%25"
    theirs = site.store.root / "cache" / "plain %"
    if site.store.driver == "btrfs":
        theirs = site.store.root / "cache" / f"c-{escaped}"
        subvolume("subvolume", "create", str(theirs))
        (theirs / "n").write_text("theirs\n")
        subvolume("property", "set", "-ts", str(theirs), "ro", "true")
    else:
        theirs.mkdir()
        (theirs / "n").write_text("theirs\n")
    cached = MORE.replace("demo-cache", f'"{name}"').replace("cat /home/cache/n", "true")
    site.build(cached)
    expected = "theirs\ny\n" if site.store.driver == "btrfs" else "y\n"
    prefix = "c-" if site.store.driver == "btrfs" else ""
    assert (site.store.root / f"cache/{prefix}{escaped}" / "n").read_text() == expected
    if site.store.driver == "rsync":
        assert (theirs / "n").read_text() == "theirs\n"  # untouched, until it is cleaned away
    assert "Removing cache" in site.run("clean")
    assert os.listdir(site.store.root / "cache") == []


def test_what_a_killed_obuilder_left_does_not_disturb(site: Site) -> None:
    root, ids = site.store.root, site.store.golden.ids
    half = last_id(site.build(MORE))
    site.run("delete", half)
    site.store.clone(ids[-1], root / "result-tmp" / half)
    (root / "result-tmp" / half / "rootfs" / "stale").touch()
    lost = root / "cache-tmp" / f"0-{site.store.cache.name}"
    site.store.clone(None, lost)
    container = root / "state/sandbox/0"
    container.mkdir(parents=True)
    (container / "state.json").write_text("{}")
    printed = site.build(MORE)
    assert last_id(printed) == half
    assert "stale" not in printed
    assert not (root / "result" / half / "rootfs" / "stale").exists()
    assert os.listdir(root / "result-tmp") == os.listdir(root / "cache-tmp") == []
    assert (container / "state.json").read_text() == "{}"
    site.check_counts()


def test_a_result_that_obuilder_did_not_come_to_note_is_adopted_with_its_children(
    site: Site,
) -> None:
    ids = site.store.golden.ids
    with closing(sqlite3.connect(site.store.database, isolation_level=None)) as connection:
        # It died between the two; the next OBuilder used the result all the same.
        connection.execute("DELETE FROM builds WHERE id = ?", (ids[4],))
        connection.execute("UPDATE builds SET rc = 0 WHERE id = ?", (ids[3],))
    site.build()
    assert len(site.rows()) == 7
    site.check_counts()


@pytest.mark.parametrize(
    "text",
    [
        b'((env((PATH "/bin:/usr/bin")(WORDS "x\\ny z"))))',
        b"""; a comment
(
  (env (
    (PATH /bin:/usr/bin) #| another |#
    ("WOR\\
       DS" "x\\010y z"))))

""",
    ],
    ids=["machine", "human"],
)
def test_an_env_file_is_read_in_any_form(text: bytes, site: Site) -> None:
    path = site.store.root / "result" / site.store.golden.ids[0]
    if site.store.driver == "btrfs":
        subvolume("property", "set", "-ts", str(path), "ro", "false")
    (path / "env").write_bytes(text)
    spec = site.command.directory / "env.spec"
    spec.write_text("((from busybox) (shell /bin/sh -c) (run (shell env)))")
    printed = site.run("build", "-f", str(spec), str(site.command.source))
    assert "WORDS=x\ny z\n" in printed
    assert "PATH=/bin:/usr/bin\n" in printed


def test_a_check_finds_nothing_and_changes_nothing(site: Site) -> None:
    root = site.store.root
    names, contents = set(listing(root)), identities(root)
    beside = {each: each.read_bytes() for each in site.store.database.parent.iterdir()}
    assert site.run("fsck") == "Checked 7 results and 7 rows: no faults\n"
    assert {each: each.read_bytes() for each in site.store.database.parent.iterdir()} == beside
    assert identities(root) == contents
    # Opening the store makes the directories that it lacks.
    added = {entry.path for entry in set(listing(root)) - names}
    assert {path.split("/")[0] for path in added} == {"state"}
    assert names <= set(listing(root))
    assert all((root / path).is_dir() for path in added)
    site.build()
    assert site.run("fsck", "--repair") == "Checked 7 results and 7 rows: no faults\n"


def test_its_database_made_anew_has_all_results_and_says_what_it_cannot_know(site: Site) -> None:
    site.store.database.unlink()
    printed = site.run("fsck", "--rebuild-db")
    assert printed.count("OBuilder made it") == 7
    assert printed.endswith("Checked 7 results and 7 rows: no faults\n")
    assert {row[3:] for row in site.rows()} == {(0, None)}
    site.build(MORE)
    site.check_counts()
    assert site.run("fsck") == "Checked 8 results and 8 rows: no faults\n"
