"""The reader: positions, bytes, comments, and input made to hurt it."""

import sys
from collections.abc import Callable

import pytest

from obuilder.errors import SpecError
from obuilder.spec import MAX_DEPTH, Node, Sexp, parse, parse_sexps, to_hum, to_mach


def sexps(text: bytes) -> list[Sexp]:
    return [node.sexp() for node in parse_sexps(text)]


def test_positions_are_lines_and_columns_from_one() -> None:
    (node,) = parse_sexps(b'; first\n  (a #| two\nlines |# b\n\t"c\\\n d" e)')
    assert (node.line, node.column) == (2, 3)
    assert isinstance(node.value, tuple)
    places = [(n.value, n.line, n.column) for n in node.value]
    assert places == [("a", 2, 4), ("b", 3, 10), ("cd", 4, 2), ("e", 5, 5)]


def test_columns_count_characters_and_stray_bytes() -> None:
    first, second = parse_sexps("é你".encode() + b"\xff x")
    assert (first.column, second.column) == (1, 5)


def test_a_carriage_return_with_its_newline_is_one_line_end() -> None:
    assert parse_sexps(b"a\r\n b")[1] == Node("b", 2, 2)


def test_bytes_that_are_not_utf8_survive_reading_and_printing() -> None:
    everything = bytes(range(256))
    (atom,) = sexps(b'"' + everything.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"')
    assert isinstance(atom, str)
    assert atom.encode("utf-8", "surrogateescape") == everything
    assert sexps(to_mach(atom).encode()) == [atom]


def test_escapes_and_bytes_make_the_same_character() -> None:
    assert sexps(b'"\\195\\169" "\\xc3\xa9" "\xc3\xa9"') == ["é", "é", "é"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"#; #; a #| b |# c ; d\ne", ["e"]),
        (b"(a #; (b #; c d) e)", [("a", "e")]),
        (b'#| " |# " |# x', ["x"]),
        (b"#| ## #|| |#| |# x", ["x"]),
        (b"a#;b\nc", ["a#", "c"]),
        (b"# a", ["#", "a"]),
        (b"##", ["##"]),
        (b'"a\\\r\n \tb"', ["ab"]),
        (b'"a\\\rb"', ["a\rb"]),
        (b"\x0ca\x0cb", ["a", "b"]),
        (b"\x00\x0b", ["\x00\x0b"]),
    ],
)
def test_corners_of_the_syntax(text: bytes, expected: list[Sexp]) -> None:
    assert sexps(text) == expected


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"(a\n (b", "f:2:2"),
        (b"a\n b)", "f:2:3"),
        (b"(a #;)", "f:1:6"),
        (b"(a #;", "f:1:1"),
        (b"a ##| b", "f:1:4"),
        (b"|#", "f:1:1"),
        (b"a\rb", "f:1:2"),
        (b"a\r", "f:1:2"),
        (b"; c\rb", "f:1:4"),
        (b'#| "\\300" |#', "f:1:5"),
        (b'#| " |#', "f:1:4"),
        (b'\n"\\256"', "f:2:2"),
        (b'"\\x4g"', "f:1:2"),
        (b'"\\', "f:1:1"),
    ],
)
def test_syntax_errors_name_their_place(text: bytes, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_sexps(text, file="f")
    assert (caught.value.where, caught.value.code) == (where, "spec.syntax")


def test_lists_may_be_as_deep_as_the_limit() -> None:
    (deep,) = sexps(b"(" * MAX_DEPTH + b")" * MAX_DEPTH)
    assert to_mach(deep) == "(" * MAX_DEPTH + ")" * MAX_DEPTH
    assert to_hum(deep).count(")") == MAX_DEPTH


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
@pytest.mark.parametrize("read", [parse, parse_sexps])
def test_deeper_lists_are_an_error_and_no_crash(
    read: Callable[[bytes], object], depth: int
) -> None:
    with pytest.raises(SpecError) as caught:
        read(b"(" * depth + b")" * depth)
    assert caught.value.code == "spec.too-deep"
    assert caught.value.where == f"<spec>:1:{MAX_DEPTH + 1}"


@pytest.mark.parametrize(
    "unit",
    [
        b"abc ",
        b"() ",
        b'"a\\n\\195\\169" ',
        b"; comment\n",
        b"#|x|# ",
        b"#; x ",
        b"#|",
        b'"\\',
        b"#;",
        b"|",
        b"\n",
        b"(build a ((from x))) ",
    ],
)
def test_work_grows_with_the_text_and_no_faster(unit: bytes) -> None:
    small, large = calls(unit * 200), calls(unit * 1600)
    assert large <= 8 * small + 100


@pytest.mark.parametrize(
    "unit", [b'"', b'"\\', b"#|", b'#|"', b"#;", b"(", b")", b"|", b"\r", b" "]
)
def test_a_mebibyte_made_to_hurt_is_read_or_refused(unit: bytes) -> None:
    text = unit * (2**20 // len(unit))
    try:
        parse_sexps(text)
    except SpecError as error:
        assert error.code in {"spec.syntax", "spec.too-deep"}  # noqa: PT017 - either end is right


def calls(text: bytes) -> int:
    """How many functions reading `text` calls, Python's and C's: a clock that is never late."""
    count = 0

    def tick(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(tick)
    try:
        parse_sexps(text)
    except SpecError:
        pass  # being refused is work too
    finally:
        sys.setprofile(None)
    return count
