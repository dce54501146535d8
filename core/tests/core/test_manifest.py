"""Manifests are OBuilder's, and nothing outside the source directory is read."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.builds import base_files, descriptors

from obuilder._core.manifest import MAX_DEPTH, Directory, File, Symlink, scan
from obuilder.errors import SourceError
from obuilder.spec import to_mach

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "tests/golden/manifest.json").read_text()
)
CASES: list[dict[str, Any]] = GOLDEN["cases"]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trees")
    return {name: base_files(root / name, tree) for name, tree in GOLDEN["trees"].items()}


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{number}:{case['src']}" for number, case in enumerate(CASES)]
)
def test_the_manifest_or_the_refusal_is_that_of_obuilder(
    case: dict[str, Any], trees: dict[str, Path]
) -> None:
    before = descriptors()
    try:
        manifest = scan(trees[case["tree"]], case["src"], exclude=case["exclude"])
        outcome = {"ok": to_mach(manifest.sexp())}
    except SourceError as error:
        outcome = {"error": error.what}
    assert outcome == {key: case[key] for key in ("ok", "error") if key in case}
    assert descriptors() == before


def test_entries_are_in_byte_order(tmp_path: Path) -> None:
    names = [b"a", b"B", b"\xff", "é".encode(), b"a.b", b"a-b", b"ab"]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    manifest = scan(tmp_path, ".")
    assert isinstance(manifest, Directory)
    assert [os.fsencode(entry.path) for entry in manifest.entries] == sorted(names)


def test_a_name_that_is_not_utf_8_goes_into_the_record_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xe9")).write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    assert to_mach(scan(tmp_path, ".").sexp()) == rf'(Dir(""((File("\233"{digest})))))'


def test_a_source_with_a_link_on_the_way_is_refused_and_nothing_is_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root = tmp_path / "src"
    root.mkdir()
    (root / "way").symlink_to(outside)
    with pytest.raises(SourceError, match="Not a regular file: way"):
        scan(root, "way/secret")
    # Inside a directory it is a link like any other.
    assert scan(root, ".") == Directory("", (Symlink("way", str(outside)),))


def test_excluded_names_are_left_out_below_but_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "a" / "x" / "f").write_text("f")
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / "x").write_text("x")
    assert scan(tmp_path, "a", exclude=["x"]) == Directory("a", (Directory("a/b", ()),))
    assert isinstance(scan(tmp_path, "a/x/f", exclude=["x"]), File)


@pytest.mark.parametrize("source", ["a\0b", "\0", "dir/\0"])
def test_a_zero_byte_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="zero byte"):
        scan(tmp_path, source)


def test_a_source_root_that_is_missing_or_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(SourceError, match=str(root)) as caught:
            scan(root, ".")
        assert caught.value.code == "source.none"


def test_a_long_name_that_cannot_exist_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="too long") as caught:
        scan(tmp_path, "x" * 300)
    assert caught.value.code == "source.unreadable"


def test_a_tree_of_many_levels_is_read_and_printed(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(MAX_DEPTH):
        path = path / "d"
        path.mkdir()
    (path / "leaf").write_text("x")
    assert to_mach(scan(tmp_path, ".").sexp()).count("Dir") == MAX_DEPTH + 1
    (path / "d").mkdir()
    with pytest.raises(SourceError) as caught:
        scan(tmp_path, ".")
    assert caught.value.code == "source.too-deep"


def test_a_device_below_a_directory_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    with pytest.raises(SourceError, match='Unsupported file type for "d/pipe"') as caught:
        scan(tmp_path, ".")
    assert caught.value.code == "source.file-type"


def test_a_scan_can_be_stopped_between_two_entries(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    calls = threading.Semaphore(2)

    def check() -> None:
        if not calls.acquire(blocking=False):
            raise StopError

    before = descriptors()
    with pytest.raises(StopError):
        scan(tmp_path, ".", check=check)
    assert descriptors() == before
