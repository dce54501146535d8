"""The plain output, byte for byte as OBuilder writes it."""

import errno
import io
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import anyio
import pytest

from obuilder import events
from obuilder._cli.output import Output
from obuilder._cli.plain import PlainRenderer
from obuilder.errors import BuildError
from obuilder.spec import Run, SecretMount, Shell
from obuilder.types import Id

ID = Id("5e8c6c" + "0" * 58)
BASE_ID = Id("b" * 64)


class Out(io.BytesIO):
    """Counts flushes; fails with `error` once that is set."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes = 0
        self.error: OSError | None = None

    def flush(self) -> None:
        self.flushes += 1
        if self.error:
            raise self.error


def at(kind: type[events.Event], *, stage: tuple[str, ...] = (), **fields: object) -> events.Event:
    return kind(seq=1, stage=stage, **fields)


def within(*names: str) -> Callable[..., events.Event]:
    return partial(at, stage=names)


def rendered(*told: events.Event) -> bytes:
    out = Out()
    renderer = PlainRenderer(Output(out), keep_going=False)
    for event in told:
        assert renderer(event) is None
    assert out.flushes == len(told)
    return out.getvalue()


def test_whole_build_is_printed_as_behaviour_section_5_shows_it() -> None:
    dev = within("dev")
    text = rendered(
        dev(events.StageStarted, name="dev"),
        dev(events.BaseStarted, base="debian:bookworm"),
        dev(events.StepFinished, id=BASE_ID, cached=True),
        dev(events.OpStarted, op=Run(shell="mkdir -p /out"), workdir="/"),
        dev(events.Output, data=b"raw\n"),
        dev(events.StepFinished, id=ID, cached=False),
        dev(events.StageFinished, name="dev", id=ID),
        at(events.BuildFinished, id=ID),
    ).decode()
    assert text.splitlines() == [
        '(build "dev" …)',
        "(from debian:bookworm)",
        f'---> using "{BASE_ID}" from cache',
        '/: (run (shell "mkdir -p /out"))',
        "raw",
        f'---> saved as "{ID}"',
        '--> finished "dev"',
        f'Got: "{ID}"',
    ]


def test_heading_of_several_lines_is_indented_below_its_op() -> None:
    run = Run(secrets=(SecretMount(id="nope", target="/x"),), shell="true")
    assert rendered(at(events.OpStarted, op=run, workdir="/")) == (
        b"/: (run (secrets (nope (target /x)))\n        (shell true))\n"
    )


def test_output_is_written_as_it_is_also_without_a_newline() -> None:
    printed = rendered(
        at(events.Output, data=b"\xff\x00other"), at(events.StepFinished, id=ID, cached=False)
    )
    assert printed == b'\xff\x00other---> saved as "' + ID.encode() + b'"\n'


def test_text_that_is_not_utf8_comes_out_as_the_bytes_it_was() -> None:
    base = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert rendered(at(events.BaseStarted, base=base)) == b"(from caf\xe9)\n"
    assert rendered(at(events.OpStarted, op=Shell(("x",)), workdir=f"/{base}")).startswith(
        b"/caf\xe9: "
    )


def test_stage_name_is_quoted_as_ocaml_does() -> None:
    started = within('a"b\n')(events.StageStarted, name='a"b\n')
    assert rendered(started) == '(build "a\\"b\\n" …)\n'.encode()
    inside = within("é")
    both = (inside(events.StageStarted, name="é"), inside(events.StageFinished, name="é", id=ID))
    assert rendered(*both).endswith(b'--> finished "\\195\\169"\n')


def test_stages_side_by_side_print_as_one_by_one() -> None:
    out = Out()
    renderer = PlainRenderer(Output(out), keep_going=False)
    a, deep, b = within("a"), within("a", "deep"), within("b")
    for event in (
        a(events.StageStarted, name="a"),
        deep(events.StageStarted, name="deep"),
        b(events.StageStarted, name="b"),
        b(events.Output, data=b"in b\n"),
        at(events.Output, data=b"outside\n"),
        a(events.Output, data=b"in a\n"),
        b(events.StageFinished, name="b", id=ID),
        deep(events.Output, data=b"in deep\n"),
    ):
        renderer(event)
    assert out.getvalue().decode() == '(build "a" …)\n(build "deep" …)\nin deep\n'
    for event in (
        deep(events.StageFinished, name="deep", id=ID),
        a(events.StageFinished, name="a", id=ID),
        at(events.BuildFinished, id=ID),
    ):
        renderer(event)
    assert out.getvalue().decode().splitlines() == [
        *('(build "a" …)', '(build "deep" …)', "in deep", '--> finished "deep"'),
        *("in a", '--> finished "a"'),
        *('(build "b" …)', "in b", '--> finished "b"'),
        *("outside", f'Got: "{ID}"'),
    ]


def test_who_is_printed_first_has_made_the_step_and_later_ones_use_it() -> None:
    out = Out()
    renderer = PlainRenderer(Output(out), keep_going=False)
    a, b = within("a"), within("b")
    for event in (
        *(in_(events.StageStarted, name=name) for in_, name in ((a, "a"), (b, "b"))),
        b(events.Output, data=b"in b\n"),
        b(events.StepFinished, id=ID, cached=False),
        b(events.StepFinished, id=BASE_ID, cached=True),
        b(events.Output, data=b"more\n"),
        a(events.StepFinished, id=ID, cached=True),
        *(in_(events.StageFinished, name=name, id=ID) for in_, name in ((a, "a"), (b, "b"))),
    ):
        renderer(event)
    assert out.getvalue().decode().splitlines() == [
        *('(build "a" …)', f'---> saved as "{ID}"', '--> finished "a"'),
        *('(build "b" …)', "in b", f'---> using "{ID}" from cache'),
        *(f'---> using "{BASE_ID}" from cache', "more", '--> finished "b"'),
    ]


def test_nothing_is_printed_behind_the_stage_that_failed() -> None:
    for keep_going, last in ((False, "in a"), (True, "in b")):
        out = Out()
        renderer = PlainRenderer(Output(out), keep_going=keep_going)
        a, b = within("a"), within("b")
        for event in (
            *(in_(events.StageStarted, name=name) for in_, name in ((a, "a"), (b, "b"))),
            b(events.Output, data=b"in b\n"),
            a(events.Output, data=b"in a\n"),
            a(events.StageFailed, error=BuildError("no")),
        ):
            renderer(event)
        renderer.finish()
        renderer.close()
        assert out.getvalue().decode().splitlines()[-1] == last


DRAINED = BuildError("no new step is begun", code="build.drained")


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_of_a_stage_that_was_drained_stands_between_the_one_that_failed_and_its_error(
    which: int,
) -> None:
    out = Out()
    renderer = PlainRenderer(Output(out), keep_going=False)
    a, b = within("a"), within("b")
    failures = [
        b(events.StageFailed, error=DRAINED),
        a(events.StageFailed, error=BuildError("no")),
    ]
    for event in (
        *(in_(events.StageStarted, name=name) for in_, name in ((a, "a"), (b, "b"))),
        b(events.Output, data=b"in b\n"),
        a(events.Output, data=b"in a\n"),
        failures[which],
        failures[1 - which],
    ):
        renderer(event)
    renderer.finish()
    renderer.close()
    assert out.getvalue().decode().splitlines() == ['(build "a" …)', "in a"]


def test_what_stages_printed_that_were_drained_is_printed_if_none_has_failed_otherwise() -> None:
    out = Out()
    renderer = PlainRenderer(Output(out), keep_going=False)
    a, b = within("a"), within("b")
    for event in (
        *(in_(events.StageStarted, name=name) for in_, name in ((a, "a"), (b, "b"))),
        b(events.Output, data=b"in b\n"),
        b(events.StageFailed, error=DRAINED),
        a(events.Output, data=b"in a\n"),
        a(events.StageFailed, error=DRAINED),
    ):
        renderer(event)
    renderer.finish()
    renderer.close()
    assert out.getvalue().decode().splitlines()[-1] == "in b"


def test_a_stage_that_fails_is_printed_though_it_was_not_its_turn() -> None:
    for everything in (False, True):
        out = Out()
        renderer = PlainRenderer(Output(out), keep_going=everything)
        a, b, c = within("a"), within("b"), within("c")
        for event in (
            *(in_(events.StageStarted, name=name) for in_, name in ((a, "a"), (b, "b"), (c, "c"))),
            c(events.Output, data=b"in c\n"),
            b(events.Output, data=bytes(3_000_000)),
            b(events.StageFailed, error=BuildError("no")),
        ):
            renderer(event)
        assert out.getvalue().decode() == '(build "a" …)\n'
        renderer.finish()
        rest = out.getvalue().partition(b"\n")[2].replace(bytes(3_000_000), b"zeros")
        then = '(build "c" …)\nin c\n' if everything else ""
        renderer.close()
        assert rest.decode() == f'(build "b" …)\nzeros{then}'


def test_note_is_a_line() -> None:
    assert rendered(at(events.Note, text="Pulling x")) == b"Pulling x\n"


@pytest.mark.parametrize(
    ("pid", "others", "who"),
    [
        (None, (), "another process has"),
        (7, (), "process 7 has"),
        (7, (8,), "processes 7 and 8 have"),
        (7, (8, 9), "processes 7, 8 and 9 have"),
    ],
)
def test_a_wait_says_for_what_and_who_has_had_it_since_when(
    pid: int | None, others: tuple[int, ...], who: str
) -> None:
    since = datetime(2026, 11, 25, 10, 2, 3, tzinfo=UTC)
    event = at(events.Waiting, what="cache 'c'", pid=pid, since=since, others=others)
    line = f"Waiting for cache 'c', which {who} had since 10:02:03 UTC\n"
    assert rendered(event) == line.encode()


@pytest.mark.anyio
async def test_closed_output_stops_the_build_once_and_raises_nothing() -> None:
    out = Out()
    output = Output(out)
    stopped: list[OSError] = []
    told = anyio.Event()

    def stop(error: OSError) -> None:
        stopped.append(error)
        told.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(output.watch, stop)
        out.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
        renderer = PlainRenderer(output, keep_going=False)
        for _ in range(3):
            renderer(at(events.Note, text="x"))
        with anyio.fail_after(60):
            await told.wait()
            await output.drained()
        tasks.cancel_scope.cancel()
    assert stopped == [out.error]
    assert out.flushes == 1
