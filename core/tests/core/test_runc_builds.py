"""Whole builds with everything real: the rsync store, runc, busybox."""

import os
from pathlib import Path

import anyio
import pytest
from support.builds import Events, descriptors, stage
from support.runc_builds import SHELL, open_runc

from obuilder.errors import BuildError, CommandFailed, SourceError

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "f").write_text("in dir")
    (source / "run.sh").write_text("#!/bin/sh\necho ran as $(id -u)\n")
    (source / "run.sh").chmod(0o700)
    return source


async def test_stages_copies_users_caches_and_secrets_work_together(
    store: Path, source: Path
) -> None:
    spec = stage(
        """((build tool ((from busybox) (shell /bin/sh -c) (workdir /made)
                         (run (shell "pwd > here"))))
            (from busybox) (shell /bin/sh -c) (user (uid 3000000) (gid 7)) (env WHO me)
            (copy (src .) (dst /app/))
            (copy (from (build tool)) (src made) (dst /app/made))
            (workdir /app)
            (run (cache (c (target /cache))) (secrets (s (target /run/s)))
                 (shell "./run.sh; cat made/here dir/f; echo; echo $WHO;
                         stat -c '%u:%g %a' /app dir/f run.sh;
                         wc -c < /run/s; echo x >> /cache/n; cat /cache/n")))"""
    )
    first, second = Events(), Events()
    async with open_runc(store) as parts:
        await parts.builder.build(spec, first.context(src=source, s=b"hush-hush"))
        await parts.builder.build(spec, second.context(src=source, s=b"hush-hush"))
        assert await parts.sandbox.leftovers() == []
    assert first.output.decode().splitlines() == [
        "ran as 3000000",
        "/made",
        "in dir",
        "me",
        "3000000:7 755",
        "3000000:7 644",
        "3000000:7 755",
        "9",
        "x",
    ]
    assert second.output == first.output
    assert all(cached for _, cached in second.steps)
    for path in store.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"hush-hush" not in path.read_bytes(), path


async def test_a_failing_command_leaves_its_log_and_nothing_else(store: Path) -> None:
    async with open_runc(store) as parts:
        await parts.builder.build(stage(f"{SHELL})"))
        before = descriptors()
        with pytest.raises(CommandFailed) as caught:
            await parts.builder.build(stage(f'{SHELL} (run (shell "echo oops >&2; exit 3")))'))
        assert caught.value.status == 3
        (kept,) = parts.failed.iterdir()
        assert (kept / "log").read_bytes() == b"oops\n"
        assert parts.temporary() == []
        assert os.listdir(store / "state" / "sandbox" / "runc" / "bundles") == []
        assert len(descriptors()) == len(before)


async def test_copying_onto_a_merged_usr_image_leaves_it_working(store: Path, source: Path) -> None:
    spec = stage(
        f"""{SHELL} (run (shell "mkdir usr; mv bin usr/bin; /usr/bin/busybox ln -s usr/bin bin"))
            (copy (src run.sh) (dst /bin/)) (copy (src dir) (dst /tmp/))
            (run (shell "run.sh; readlink /bin; stat -c %a /tmp")))"""
    )
    seen = Events()
    async with open_runc(store) as parts:
        await parts.builder.build(spec, seen.context(src=source))
    assert seen.output == b"ran as 0\nusr/bin\n1777\n"


@pytest.mark.parametrize("copy", ["(copy (src .) (dst /))", "(copy (src .) (dst .))"])
async def test_the_source_can_be_spread_into_the_root_directory(
    copy: str, store: Path, source: Path
) -> None:
    seen = Events()
    async with open_runc(store) as parts:
        spec = stage(f'{SHELL} {copy} (run (shell "cat /dir/f")))')
        await parts.builder.build(spec, seen.context(src=source))
    assert seen.output == b"in dir"


async def test_an_image_without_tar_says_so_by_the_receivers_error(
    store: Path, source: Path
) -> None:
    (source / "big").write_bytes(bytes(3 << 20))
    async with open_runc(store) as parts:
        spec = stage(f'{SHELL} (run (shell "rm /bin/tar")) (copy (src .) (dst /x/)))')
        with pytest.raises(BuildError) as caught:
            await parts.builder.build(spec, Events().context(src=source))
        assert isinstance(caught.value, CommandFailed)
        assert caught.value.argv[0] == "tar"
        assert parts.temporary() == []


async def test_a_source_that_changes_while_it_is_sent_says_so_and_the_log_is_quiet(
    store: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obuilder._core import transfer  # noqa: PLC0415 - what is patched

    real = transfer.send

    def changed_meanwhile(**kwargs: object) -> None:
        (source / "dir" / "f").write_text("changed")
        real(**kwargs)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(transfer, "send", changed_meanwhile)
    seen = Events()
    async with open_runc(store) as parts:
        with pytest.raises(SourceError) as caught:
            await parts.builder.build(
                stage(f"{SHELL} (copy (src .) (dst /x/)))"), seen.context(src=source)
            )
        assert caught.value.code == "source.changed"
        assert parts.temporary() == []
    assert seen.output == b""


async def test_cancelling_ends_the_container(store: Path) -> None:
    seen = Events()
    async with open_runc(store) as parts:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                spec = stage(f'{SHELL} (run (shell "echo begun; sleep 1000")))')
                tasks.start_soon(parts.builder.build, spec, seen.context())
                await seen.wait_for(b"begun")
                tasks.cancel_scope.cancel()
    # The builder's end waits for its steps' ends.
    assert os.listdir(store / "result-tmp") == []
    assert os.listdir(store / "state" / "sandbox" / "runc" / "bundles") == []
    assert os.listdir(store / "state" / "sandbox" / "runc" / "runc") == []


async def test_a_health_check_passes(store: Path) -> None:
    async with open_runc(store) as parts:
        await parts.builder.healthcheck()
        assert (await parts.builder.counters()).items == 1
