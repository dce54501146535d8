"""A builder inside a program: from a coroutine, from a thread, without touching the host."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from support.command import Command

import obuilder as api

EXAMPLE = Path(__file__).parents[1] / "examples" / "embed.py"


def test_the_documented_example_runs(obuilder: Command) -> None:
    spec = obuilder.write_spec('(copy (src x) (dst /x)) (run (shell "cat /x"))')
    (obuilder.source / "x").write_text("embedded\n")
    store = str(obuilder.directory / "store")
    done = subprocess.run(
        [sys.executable, EXAMPLE, store, str(spec), str(obuilder.source)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=obuilder.environment(),
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "\nembedded\n" in done.stdout
    assert "3 steps built, then 3 from the cache" in done.stdout


def test_a_thread_can_build_and_takes_no_signal_handler(obuilder: Command) -> None:
    spec = obuilder.write_spec('(run (shell "echo threaded"))')
    settings = api.Settings.from_dict({"store": obuilder.store})
    watched = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE]
    before = [signal.getsignal(number) for number in watched]
    during: list[object] = []
    results: list[api.BuildResult] = []

    def work() -> None:
        stage = api.parse(spec.read_bytes(), file=str(spec))
        context = api.BuildContext(
            spec_dir=obuilder.directory,
            on_event=lambda _: during.append([signal.getsignal(number) for number in watched]),
        )
        results.append(api.build_sync(settings, stage, context))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (results[0].path / "log").read_bytes() == b"threaded\n"
    assert during
    assert all(seen == before for seen in during)
    assert [signal.getsignal(number) for number in watched] == before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_error_keeps_its_type_on_both_loops(obuilder: Command, backend: str) -> None:
    settings = api.Settings.from_dict({"store": obuilder.store})

    async def main() -> None:
        async with api.open_builder(settings) as builder:
            stage = api.parse(b'((from archive:busybox.tar) (run (shell "exit 3")))')
            with pytest.raises(api.CommandFailed):
                await builder.build(stage, api.BuildContext(spec_dir=obuilder.directory))
            raise LookupError

    with pytest.raises(LookupError):
        anyio.run(main, backend=backend)


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, obuilder;"
        "heavy = {'typer', 'rich', 'anyio', 'stevedore', 'pluggy', 'sqlite3'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
