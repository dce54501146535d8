"""No value of a secret is left anywhere in a store, nor told, unless the command prints it."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.command import Command

CASES: list[dict[str, Any]] = [
    case
    for case in json.loads((Path(__file__).parent / "golden" / "ids.json").read_text())
    if case["secrets"]
]
# As long as it is, it is found in any escaped form of the whole value.
TOKEN = "VerySecretValue4711"
ENDINGS = {"succeeds": "", "fails": "; exit 3"}


@pytest.fixture(params=["btrfs", "rsync"])
def command(
    request: pytest.FixtureRequest, tmp_path: Path, busybox_archive: Path
) -> Iterator[Command]:
    root = tmp_path / "store"
    if request.param == "btrfs":
        root = request.getfixturevalue("btrfs_root") / "store"
    (tmp_path / "src").mkdir()
    shutil.copy(busybox_archive, tmp_path / "busybox.tar")
    yield Command(tmp_path, f"{request.param}:{root}")
    if request.param == "rsync":
        shutil.rmtree(root)


def build(command: Command, spec: str, secrets: list[str]) -> bytes:
    """Build; returns both outputs with the loudest diagnostics."""
    path = command.directory / "spec"
    path.write_text(spec.replace("(from busybox)", "(from archive:busybox.tar)"))
    options = [option for id in secrets for option in ("--secret", f"{id}:{secret_file(id)}")]
    done = command("-v", "build", "-f", str(path), *options, str(command.source))
    return done.stdout + done.stderr


def secret_file(id: str) -> str:
    return f"secret-{id}"  # in the command's own directory, outside the store


def traces(root: Path) -> list[str]:
    """What holds the token, or has it in its name."""
    return [str(path.relative_to(root)) for path in root.rglob("*") if _holds(path)]


def _holds(path: Path) -> bool:
    if TOKEN in path.name:
        return True
    if path.is_symlink():
        return TOKEN in str(path.readlink())
    return path.is_file() and TOKEN.encode() in path.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("printing", [False, True], ids=["silent", "printing"])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_value_is_nowhere_but_in_what_the_command_printed(
    case: dict[str, Any], ending: str, command: Command, *, printing: bool
) -> None:
    root = Path(command.store.partition(":")[2])
    for id in case["secrets"]:
        value = f'("{id}" {TOKEN}\\ é)\n'
        (command.directory / secret_file(id)).write_text(value)
    build(command, "((from busybox))", [])
    reader = sqlite3.connect(root / "state/db/db.sqlite")
    with closing(reader):
        # While somebody reads, the write-ahead log stays beside the database.
        reader.execute("SELECT * FROM builds").fetchall()
        spec = case["spec"].replace('")))', f'{ENDINGS[ending]}")))')
        if not printing:
            spec = spec.replace('"cat ', '"sha256sum ')
        printed = build(command, spec, list(case["secrets"]))
        left = traces(root)
        database = {each.name: each.read_bytes() for each in (root / "state/db").iterdir()}
    assert database["db.sqlite-wal"]
    assert (f"exit {ENDINGS[ending][-1:]}".encode() in printed) == (ending == "fails")
    assert (TOKEN.encode() in printed) == printing
    if printing:
        assert [Path(name).name for name in left] == ["log"]
        assert left[0].startswith("result/" if ending == "succeeds" else "state/failed/")
    else:
        assert left == []
    if ending == "succeeds":
        kept = [path.read_bytes() for path in root.glob("result/*/obuilder.json")]
        assert any(b"(value <secret>)" in each for each in kept)
        assert b"(value <secret>)" in b"".join(database.values())
