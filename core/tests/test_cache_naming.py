"""Names of caches as file names: as OBuilder's, safe, short, and distinct."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obuilder.named_cache import CacheNaming, escape_name, unescape_name

TEXTS = st.binary(max_size=250).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("name", "plain", "prefixed"),
    [
        ("apt", "apt", "c-apt"),
        ("a-b_c.D0", "a-b%5fc.D0", "c-a-b%5fc.D0"),
        ("..", "%2e.", "c-.."),
        (".", "%2e", "c-."),
        ("a/b", "a%2fb", "c-a%2fb"),
        ("", "%", "c-"),
        ("%", "%25", "c-%25"),
        ("é\udcff", "%c3%a9%ff", "c-%c3%a9%ff"),
        ("A B", "A%20B", "c-A%20B"),
    ],
)
def test_names_are_escaped_as_obuilder_does(name: str, plain: str, prefixed: str) -> None:
    # An underscore is among the bytes that stay.
    plain, prefixed = plain.replace("%5f", "_"), prefixed.replace("%5f", "_")
    assert escape_name(name) == plain
    assert escape_name(name, prefix="c-") == prefixed
    assert unescape_name(plain) == unescape_name(prefixed, prefix="c-") == name


@given(TEXTS, TEXTS, st.sampled_from(["", "c-"]))
def test_escaped_names_are_distinct_short_file_names(one: str, other: str, prefix: str) -> None:
    first, second = escape_name(one, prefix=prefix), escape_name(other, prefix=prefix)
    assert (first == second) == (one == other)
    assert len(first) <= 220
    assert first not in ("", ".", "..")
    assert first.isascii()
    assert "/" not in first


@given(TEXTS, st.sampled_from(["", "c-"]))
def test_a_name_comes_back_unless_it_was_shortened(name: str, prefix: str) -> None:
    escaped = escape_name(name, prefix=prefix)
    if len(escaped) <= 200:
        assert unescape_name(escaped, prefix=prefix) == name


def test_a_long_name_keeps_its_start_and_a_hash() -> None:
    escaped = escape_name("x" * 201)
    assert escaped.startswith("x" * 150 + "-")
    assert len(escaped) == 150 + 1 + 64
    assert escape_name("x" * 200) == "x" * 200
    assert escape_name(escaped) != escaped


@given(TEXTS, TEXTS, st.integers(80, 255))
def test_names_fit_where_there_is_less_room_and_stay_distinct(
    one: str, other: str, room: int
) -> None:
    naming = CacheNaming(prefix="c-", mark=":", room_bytes=room)
    first, second = naming.escape(one), naming.escape(other)
    assert len(first) <= room
    assert "%" not in first
    assert (first == second) == (one == other)
    if len(first) < 80:
        assert naming.unescape(first) == one
