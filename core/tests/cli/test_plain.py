"""The plain output, byte for byte as OBuilder writes it."""

import errno
import io

import anyio
import pytest

from obuilder import events
from obuilder._cli.output import Output
from obuilder._cli.plain import PlainRenderer
from obuilder.spec import Run, SecretMount, Shell
from obuilder.types import Id

ID = Id("5e8c6c" + "0" * 58)


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


def at(kind: type[events.Event], **fields: object) -> events.Event:
    return kind(seq=1, stage=(), **fields)


def rendered(*told: events.Event) -> bytes:
    out = Out()
    renderer = PlainRenderer(Output(out))
    for event in told:
        assert renderer(event) is None
    assert out.flushes == len(told)
    return out.getvalue()


def test_whole_build_is_printed_as_behaviour_section_5_shows_it() -> None:
    text = rendered(
        at(events.StageStarted, name="dev"),
        at(events.BaseStarted, base="debian:bookworm"),
        at(events.StepFinished, id=ID, cached=True),
        at(events.OpStarted, op=Run(shell="mkdir -p /out"), workdir="/"),
        at(events.Output, data=b"raw\n"),
        at(events.StepFinished, id=ID, cached=False),
        at(events.StageFinished, name="dev", id=ID),
        at(events.BuildFinished, id=ID),
    ).decode()
    assert text.splitlines() == [
        '(build "dev" …)',
        "(from debian:bookworm)",
        f'---> using "{ID}" from cache',
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
    assert rendered(at(events.StageStarted, name='a"b\n')) == '(build "a\\"b\\n" …)\n'.encode()
    assert rendered(at(events.StageFinished, name="é", id=ID)) == (b'--> finished "\\195\\169"\n')


def test_note_is_a_line() -> None:
    assert rendered(at(events.Note, text="Pulling x")) == b"Pulling x\n"


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
        renderer = PlainRenderer(output)
        for _ in range(3):
            renderer(at(events.Note, text="x"))
        with anyio.fail_after(60):
            await told.wait()
            await output.drained()
        tasks.cancel_scope.cancel()
    assert stopped == [out.error]
    assert out.flushes == 1
