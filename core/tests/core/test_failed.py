"""Logs of failed steps: the last hundred, at most 100 MiB, whoever else writes there."""

import json
import os
from pathlib import Path

import pytest
from support.builds import Call, Events, ScriptedSandbox, descriptors, open_parts, stage

from obuilder._core import failed
from obuilder._core.failed import keep_failure
from obuilder.errors import BuildError, CommandFailed
from obuilder.types import Id


def keep(directory: Path, name: str, log: bytes = b"log") -> Path:
    source = directory.parent / "log"
    source.write_bytes(log)
    error = BuildError("no", hint="do", code="some.code")
    keep_failure(directory, Id(name), source, error=error)
    return directory / name


def test_log_and_error_are_kept_and_replaced(tmp_path: Path) -> None:
    kept = keep(tmp_path / "failed", "a", b"first")
    assert keep(tmp_path / "failed", "a", b"\xffsecond") == kept
    assert (kept / "log").read_bytes() == b"\xffsecond"
    error = json.loads((kept / "error.json").read_text())
    words: dict[str, object] = {"kind": "build", "code": "some.code", "what": "no"}
    words |= {"where": None, "hint": "do"}
    words |= {"skipped_bytes": 0, "tenure": None}
    assert error == {"id": "a", "type": "BuildError", **words}


def test_only_the_last_hundred_stay(tmp_path: Path) -> None:
    for number in range(105):
        path = keep(tmp_path / "failed", str(number))
        os.utime(path, ns=(number, number))
    keep(tmp_path / "failed", "last")
    assert set(os.listdir(tmp_path / "failed")) == {"last", *map(str, range(6, 105))}


def test_what_others_put_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed, "_KEPT", 1)
    keep(tmp_path / "failed", "first")
    (tmp_path / "failed" / "notes").write_text("why it fails")
    (tmp_path / "failed" / "link").symlink_to(tmp_path)
    keep(tmp_path / "failed", "last")
    assert set(os.listdir(tmp_path / "failed")) == {"last", "notes", "link"}


def test_logs_over_the_limit_push_out_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed, "_KEPT_BYTES", 100)
    for number, size in enumerate((40, 30, 30)):
        path = keep(tmp_path / "failed", str(number), bytes(size))
        os.utime(path, ns=(number, number))
    assert len(os.listdir(tmp_path / "failed")) == 3
    keep(tmp_path / "failed", "last", bytes(30))
    assert set(os.listdir(tmp_path / "failed")) == {"1", "2", "last"}


def test_of_a_log_over_the_limit_the_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed, "_KEPT_BYTES", 100)
    keep(tmp_path / "failed", "old")
    path = keep(tmp_path / "failed", "big", bytes(200) + b"the end")
    assert (path / "log").read_bytes() == bytes(93) + b"the end"
    assert os.listdir(tmp_path / "failed") == ["big"]


def test_one_that_another_process_is_making_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "failed" / "other").mkdir(parents=True)
    assert (keep(tmp_path / "failed", "a") / "log").exists()


@pytest.mark.anyio
async def test_a_failed_build_is_removed_with_none_of_its_files_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or zfs would say that it is busy; its followers read the log to its end all the same."""
    async with open_parts(tmp_path) as parts:
        remove_tree = parts.store.remove_tree
        open_when_removed = []

        async def look(path: Path) -> None:
            if path.exists():
                open_when_removed.append([name for name in descriptors() if str(path) in name])
            await remove_tree(path)

        monkeypatch.setattr(parts.store, "remove_tree", look)
        events = Events()
        with pytest.raises(BuildError):
            await parts.builder.build(stage('((from b) (run (shell "exit 3")))'), events.context())
    assert open_when_removed == [[]]
    assert events.output == b"about to fail\n"


@pytest.mark.anyio
async def test_what_is_kept_of_a_failure_is_gone_once_its_step_is_made_again(
    tmp_path: Path,
) -> None:
    found: list[bool] = []

    async def fail(call: Call) -> None:
        found.append(any((tmp_path / "store" / "state" / "failed").glob("*/error.json")))
        raise CommandFailed(call.config.argv, 7)

    async with open_parts(tmp_path / "store", sandbox=ScriptedSandbox(scripts={"no": fail})) as it:
        for _ in range(2):
            with pytest.raises(CommandFailed):
                await it.builder.build(stage("((from b) (run (shell no)))"))
    assert found == [False, False]
    assert any((tmp_path / "store" / "state" / "failed").glob("*/error.json"))
