"""Whole builds on a real store with a scripted sandbox: stages, cache, failures, closing."""

import errno
import json
import os
from pathlib import Path

import pytest
from support.builds import (
    BusyboxFetcher,
    Call,
    Events,
    ScriptedSandbox,
    TinyFetcher,
    descriptors,
    open_parts,
    stage,
)

from obuilder import events
from obuilder._core.build import BuildContext
from obuilder.errors import BuildError, CommandFailed, ObuilderError
from obuilder.types import BaseImage, Id

pytestmark = pytest.mark.anyio

NESTED = """
(
  (build tools ((build deep ((from b1) (run (shell "in deep"))))
                (from b2) (run (shell "in tools"))
                (copy (from (build deep)) (src ran) (dst /deep))))
  (build other ((from b1) (run (shell "in deep")) (copy (from (build tools)) (src deep) (dst /t/))))
  (from b3)
  (copy (from (build other)) (src t/deep) (dst /all/))
  (run (shell "the end"))
)
"""


async def test_stages_are_built_in_order_and_see_what_is_in_scope(tmp_path: Path) -> None:
    seen = Events()
    async with open_parts(tmp_path / "store", jobs=1) as parts:
        result = await parts.builder.build(stage(NESTED), seen.context())
        assert (result.path / "rootfs" / "all" / "deep").read_text() == "in deep\n"
        assert (result.path / "rootfs" / "ran").read_text() == "the end\n"
        # The same step in two stages is made once.
        assert parts.sandbox.commands.count("in deep") == 1
        assert parts.fetcher.fetched == ["b1", "b2", "b3"]
        counters = await parts.builder.counters()
        assert (counters.items, counters.misses, counters.hits) == (9, 9, 2)
        assert parts.temporary() == []
    assert [event.seq for event in seen.seen] == list(range(1, len(seen.seen) + 1))
    stages = [
        (type(event).__name__, event.stage)
        for event in seen.seen
        if isinstance(event, events.StageStarted | events.StageFinished)
    ]
    assert stages == [
        ("StageStarted", ("tools",)),
        ("StageStarted", ("tools", "deep")),
        ("StageFinished", ("tools", "deep")),
        ("StageFinished", ("tools",)),
        ("StageStarted", ("other",)),
        ("StageFinished", ("other",)),
    ]
    assert isinstance(seen.seen[-1], events.BuildFinished)
    assert seen.seen[-1].id == result.id


async def test_a_second_build_is_loaded_and_replays_its_logs(tmp_path: Path) -> None:
    spec = stage("((from b) (run (shell one)) (env A 1) (run (shell two)))")
    first, second, third = Events(), Events(), Events()
    async with open_parts(tmp_path / "store") as parts:
        made = await parts.builder.build(spec, first.context())
        loaded = await parts.builder.build(spec, second.context())
        assert made == loaded
        assert len(parts.sandbox.calls) == 2
    async with open_parts(tmp_path / "store") as parts:
        assert await parts.builder.build(spec, third.context()) == made
        assert parts.sandbox.calls == []
        assert parts.fetcher.fetched == []
    assert first.output == second.output == third.output == b"one\ntwo\n"
    assert [cached for _, cached in first.steps] == [False] * 3
    assert [cached for _, cached in second.steps] == [True] * 3
    assert [id for id, _ in first.steps] == [id for id, _ in third.steps]
    assert first.notes == ["fetching b"]
    assert second.notes == []


async def test_a_log_holds_its_own_steps_output_only(tmp_path: Path) -> None:
    seen = Events()
    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(
            stage("((from b) (run (shell one)) (run (shell two)))"), seen.context()
        )
        logs = [(await parts.store.log_file(id)).read_bytes() for id, _ in seen.steps]
    assert logs == [b"", b"one\n", b"two\n"]


async def test_a_step_gets_the_context_of_its_place(tmp_path: Path) -> None:
    spec = stage(
        "((from b) (shell s -c) (user (uid 7) (gid 8)) (env A 1) (workdir w) (run (shell x))"
        " (run (network host) (secrets (k (target /k))) (shell y)))"
    )
    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(spec, Events().context(k=b"hush"))
        first, second = parts.sandbox.calls
    assert first.argv == ("s", "-c", "x")
    assert (first.cwd, first.user.uid, first.user.gid, first.env[0]) == ("/w", 7, 8, ("A", "1"))
    assert (first.network, first.secrets, first.hostname) == ((), (), "builder")
    assert second.network == ("host",)
    assert [(secret.target, secret.value) for secret in second.secrets] == [("/k", b"hush")]
    assert "hush" not in repr(second)


async def test_a_cache_is_shared_by_steps_and_builds(tmp_path: Path) -> None:
    async def count(call: Call) -> None:
        (mount,) = call.config.mounts
        assert mount.target == "/c"
        with (mount.source / "n").open("a") as file:
            file.write("x")
        await call.log.output((mount.source / "n").read_bytes())

    sandbox = ScriptedSandbox(scripts={"a": count, "b": count})
    run = "(run (cache (c (target /c))) (shell {}))"
    seen = Events()
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        for name in ("a", "b"):
            await parts.builder.build(stage(f"((from b) {run.format(name)})"), seen.context())
    assert seen.output == b"xxx"


async def test_a_failing_step_keeps_its_log_and_nothing_else(tmp_path: Path) -> None:
    spec = stage('((from b) (run (shell good)) (run (shell "exit 3")) (run (shell never)))')
    seen = Events()
    async with open_parts(tmp_path / "store") as parts:
        for _ in range(2):  # it is not cached, and fails again
            with pytest.raises(CommandFailed) as caught:
                await parts.builder.build(spec, seen.context())
        assert caught.value.status == 3
        assert caught.value.what == '"/bin/sh" "-c" "exit 3" failed with exit status 3'
        assert parts.sandbox.commands == ["good", "exit 3", "exit 3"]
        (kept,) = parts.failed.iterdir()
        assert (kept / "log").read_bytes() == b"about to fail\n"
        error = json.loads((kept / "error.json").read_text())
        assert (error["id"], error["code"]) == (kept.name, "command.failed")
        assert await parts.store.result(Id(kept.name)) is None
        assert parts.temporary() == []
        assert (await parts.builder.counters()).items == 2
        assert os.listdir(parts.store.state_dir / "locks") == []
    assert seen.output.endswith(b"about to fail\n")


async def test_a_secret_is_nowhere_in_the_store_nor_in_an_error(tmp_path: Path) -> None:
    value = 'hush-hush "quoted" \u00e9'
    spec = "((from b) (run (secrets (k (target /k)) (l (target /l))) (shell {})))"
    seen = Events()
    async with open_parts(tmp_path / "store") as parts:
        context = seen.context(k=value.encode(), l=b"other-secret")
        await parts.builder.build(stage(spec.format("good")), context)
        with pytest.raises(CommandFailed) as caught:
            await parts.builder.build(stage(spec.format('"exit 1"')), context)
        open_database = {
            path: path.read_bytes() for path in (tmp_path / "store").rglob("db*") if path.is_file()
        }
    files = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert len(files) > 5
    for data in (*files.values(), *open_database.values()):
        assert b"hush" not in data
        assert b"other-secret" not in data
    texts = f"{caught.value!r} {caught.value} {context!r} {seen.seen!r} {parts.sandbox.calls!r}"
    assert "hush" not in texts
    assert "other-secret" not in texts
    records = [data for path, data in files.items() if path.name == "obuilder.json"]
    assert sum(data.count(b"(value <secret>)") for data in records) == 2


REFUSED = [
    ("(run (secrets (k (target /k))) (shell x))", "secret.missing", "requested secret 'k'"),
    ("(user (name bob)) (run (shell x))", "user.windows", "'bob' is a Windows user"),
    ("(user (name bob)) (copy (src f) (dst /x))", "user.windows", "'bob' is a Windows user"),
    ("(user (uid -1) (gid 0)) (run (shell x))", "user.out-of-range", "uid -1"),
    ("(user (uid 0) (gid -1)) (copy (src f) (dst /x))", "user.out-of-range", "gid -1"),
    ("(copy (src nope) (dst /x))", "source.missing", 'Source path "nope" not found'),
    ('(copy (src f) (dst "/x\\000"))', "copy.dst", "zero byte"),
    ("(copy (src f) (dst /.))", "copy.onto-root", "root directory"),
]


@pytest.mark.parametrize(("ops", "code", "text"), REFUSED)
async def test_what_cannot_be_is_refused_when_the_step_is_reached(
    ops: str, code: str, text: str, tmp_path: Path
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "f").touch()
    seen = Events()
    async with open_parts(tmp_path / "store") as parts:
        before = descriptors()
        with pytest.raises(BuildError, match=text) as caught:
            await parts.builder.build(
                stage(f"((from b) (run (shell before)) {ops})"), seen.context(src=source)
            )
        assert caught.value.code == code
        assert seen.output == b"before\n"
        assert "x" not in parts.sandbox.commands
        assert parts.temporary() == []
        assert len(descriptors()) == len(before)


async def test_a_user_that_no_step_uses_does_no_harm(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "store") as parts:
        await parts.builder.build(stage("((from b) (user (name bob)) (workdir /x))"))


async def test_a_base_of_another_platform_is_refused_by_name_and_stays_so(tmp_path: Path) -> None:
    fetcher = TinyFetcher(image=BaseImage(platform="linux/mips", digest="sha256:1"))
    for _ in range(2):
        async with open_parts(tmp_path / "store", fetcher=fetcher) as parts:
            with pytest.raises(BuildError, match=r"the base b .* linux/mips") as caught:
                await parts.builder.build(stage("((from b) (run (shell x)))"))
            assert caught.value.code == "base.platform"
            assert parts.sandbox.calls == []
            await parts.builder.build(stage("((from b))"), BuildContext(platform="linux/mips"))
    # Once refused, and so not saved; once for its own platform.
    assert fetcher.fetched == ["b", "b"]


async def test_the_directory_of_a_root_file_system_lets_everybody_in(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        async with open_parts(tmp_path / "store") as parts:
            result = await parts.builder.build(stage("((from b))"))
            assert (result.path / "rootfs").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EIO, "fetch.failed"), (errno.ENOSPC, "store.full")]
)
async def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, number: int, code: str) -> None:
    async def fail() -> None:
        raise OSError(number, os.strerror(number))

    fetcher = TinyFetcher(before=fail)
    async with open_parts(tmp_path / "store", fetcher=fetcher) as parts:
        with pytest.raises(ObuilderError, match=os.strerror(number)) as caught:
            await parts.builder.build(stage("((from b))"))
        assert caught.value.code == code
        assert parts.temporary() == []
        assert os.listdir(parts.store.state_dir / "scratch") == []
        fetcher.before = None
        await parts.builder.build(stage("((from b))"))
        assert os.listdir(parts.store.state_dir / "scratch") == []


async def test_many_builds_leak_no_descriptors(tmp_path: Path) -> None:
    async with open_parts(tmp_path / "store", fetcher=BusyboxFetcher()) as parts:
        await parts.builder.build(stage("((from b) (run (shell 0)))"))
        before = descriptors()
        for number in range(1, 4):
            await parts.builder.build(stage(f"((from b) (run (shell {number})))"))
            with pytest.raises(CommandFailed):
                await parts.builder.build(stage(f'((from b) (run (shell "exit {number}")))'))
        assert len(descriptors()) == len(before)


async def test_what_an_observer_hears(tmp_path: Path) -> None:
    heard: list[tuple[object, ...]] = []

    class Observer:
        def build_started(self) -> None:
            heard.append(("build",))

        def build_finished(self, *, seconds: float, error: BaseException | None) -> None:
            heard.append(("built", type(error)))

        def step_started(self, *, id: Id, kind: str) -> None:
            heard.append(("step", kind, id[:4]))

        def step_finished(
            self, *, id: Id, kind: str, cached: bool, seconds: float, error: BaseException | None
        ) -> None:
            heard.append(("done", kind, id[:4], cached, type(error)))

    async with open_parts(tmp_path / "store", observer=Observer()) as parts:
        seen = Events()
        await parts.builder.build(stage("((from b))"), seen.context())
        with pytest.raises(CommandFailed):
            await parts.builder.build(stage('((from b) (run (shell "exit 1")))'))
    base = seen.steps[0][0][:4]
    failing = heard[-3][2]
    assert heard == [
        ("build",),
        ("step", "from", base),
        ("done", "from", base, False, type(None)),
        ("built", type(None)),
        ("build",),
        ("step", "from", base),
        ("done", "from", base, True, type(None)),
        ("step", "run", failing),
        ("done", "run", failing, False, CommandFailed),
        ("built", CommandFailed),
    ]


@pytest.mark.parametrize("options", ["", "(buildkit_options ((sharing locked)))"])
async def test_a_cache_with_two_targets_is_one_and_loses_nothing(
    tmp_path: Path, options: str
) -> None:
    async def write(call: Call) -> None:
        for mount in call.config.mounts:
            with (mount.source / "lines").open("a") as lines:
                lines.write(f"{mount.target}\n")

    found: list[str] = []

    async def read(call: Call) -> None:
        (mount,) = call.config.mounts
        found.append((mount.source / "lines").read_text())

    spec = stage(f"""
        ((from b)
         (run (cache (c (target /one) {options}) (c (target /two) {options})) (shell write))
         (run (cache (c (target /c) {options})) (shell read)))
    """)
    seen = Events()
    sandbox = ScriptedSandbox(scripts={"write": write, "read": read})
    async with open_parts(tmp_path / "store", sandbox=sandbox) as parts:
        await parts.builder.build(spec, seen.context())
    assert [mount.target for mount in sandbox.calls[0].mounts] == ["/one", "/two"]
    assert found == ["/one\n/two\n"]
    assert seen.notes == ["fetching b"]
