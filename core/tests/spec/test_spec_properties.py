"""What holds for any model and any bytes."""

from collections.abc import Callable

import sexpdata
from hypothesis import given, settings
from hypothesis import strategies as st
from support.specs import SYNTAX, atoms, ops_in, sexps_of, stages

from obuilder.errors import SpecError
from obuilder.spec import (
    Op,
    Sexp,
    Stage,
    heading,
    op_to_sexp,
    parse,
    parse_sexps,
    pretty,
    stage_to_sexp,
    step_heading,
    to_hum,
    to_mach,
)


@settings(deadline=None)
@given(stages())
def test_printing_then_parsing_is_the_identity(stage: Stage) -> None:
    assert parse(to_mach(stage_to_sexp(stage)).encode()) == stage
    assert parse(to_hum(stage_to_sexp(stage)).encode()) == stage
    assert parse(pretty(stage).encode()) == stage


@settings(deadline=None)
@given(ops_in(()), st.integers(0, 100))
def test_a_heading_reads_back_as_its_op(op: Op, indent: int) -> None:
    expected = [op_to_sexp(op)]
    for text in (heading(op, indent=indent), step_heading("/" * indent, op)[indent + 2 :]):
        assert [node.sexp() for node in parse_sexps(text.encode())] == expected


@settings(deadline=None)
@given(sexps_of(atoms))
def test_both_forms_read_back_and_are_ascii(sexp: Sexp) -> None:
    for text in (to_mach(sexp), to_hum(sexp)):
        assert text.isascii()
        assert [node.sexp() for node in parse_sexps(text.encode())] == [sexp]


@settings(deadline=None)
@given(st.one_of(st.binary(), st.lists(st.sampled_from(SYNTAX), max_size=200).map(bytes)))
def test_any_bytes_are_read_or_refused_with_our_error(text: bytes) -> None:
    for read in (parse_sexps, parse):
        read_or_refuse(read, text)


@settings(deadline=None)
@given(sexps_of(atoms))
def test_any_sexp_is_a_stage_or_refused_with_our_error(sexp: Sexp) -> None:
    for text in (sexp, (("from", "a"), sexp), (("from", "a"), ("run", ("shell", "x"), sexp))):
        read_or_refuse(parse, to_mach(text).encode())


def read_or_refuse(read: Callable[..., object], text: bytes) -> None:
    try:
        read(text, file="f")
    except SpecError as error:
        assert error.code.startswith("spec.")  # noqa: PT017 - either end is right
        assert (error.where or "").startswith("f:")  # noqa: PT017 - as above
        assert error.what.isprintable()  # noqa: PT017 - as above


@settings(deadline=None)
@given(sexps_of(st.text(alphabet='abc ();"\\\n\t', min_size=1)).map(lambda sexp: (sexp,)))
def test_another_reader_reads_the_plain_part_of_the_machine_form_the_same(sexp: Sexp) -> None:
    assert bare(sexpdata.loads(to_mach(sexp), nil=None, true=None)) == sexp


def bare(value: object) -> Sexp:
    return tuple(map(bare, value)) if isinstance(value, list) else str(value)
