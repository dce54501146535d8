"""A section becomes a driver's Config: every type, and every mistake."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from obuilder._core.options import Value, fill, option_names, unsupported_option
from obuilder.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    name: str = ""
    count: int = 0
    ratio: float = 0.0
    fast_sync: bool = False
    path: Path | None = None
    roots: tuple[Path, ...] = ()
    words: tuple[str, ...] = ()
    mode: Literal["copy", "hardlink"] = "copy"
    port: int | str | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is negative")


def read(value: object, *, text: str | None = None, base: Path = Path("/etc")) -> Value:
    return Value(value=value, source="a.toml", base=base, text=text)


def failure(key: str, value: Value) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        fill(Config, "foo", {key: value})
    return caught.value


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("name", "x", "x"),
        ("count", 3, 3),
        ("ratio", 2, 2.0),
        ("ratio", 0.5, 0.5),
        ("fast-sync", True, True),
        ("path", "/abs", Path("/abs")),
        ("path", "rel", Path("/etc/rel")),
        ("roots", ["/a", "b"], (Path("/a"), Path("/etc/b"))),
        ("words", [], ()),
        ("mode", "hardlink", "hardlink"),
        ("port", 8, 8),
        ("port", "http", "http"),
    ],
)
def test_value_of_the_right_type_is_taken(key: str, value: object, expected: object) -> None:
    filled = fill(Config, "foo", {key: read(value)})
    found = getattr(filled, key.replace("-", "_"))
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("name", 3, "expected text, found the number 3"),
        ("count", True, "expected a whole number, found true"),
        ("count", 1.5, "expected a whole number, found the number 1.5"),
        ("fast-sync", "yes", 'expected true or false, found the text "yes"'),
        ("path", [], "expected a path, found a list"),
        ("roots", "/a", 'expected a list, each item a path, found the text "/a"'),
        ("mode", "copi", 'expected one of "copy", "hardlink", found the text "copi"'),
        ("port", {}, "expected a whole number or text, found a table"),
    ],
)
def test_wrong_type_says_what_is_expected_and_where(key: str, value: object, what: str) -> None:
    error = failure(key, read(value))
    assert (error.code, error.what, error.where) == ("config.type", what, f"a.toml: foo.{key}")


def test_wrong_item_of_a_list_is_pointed_at() -> None:
    assert failure("words", read(["a", 2])).where == "a.toml: foo.words[1]"


def test_nearest_of_the_allowed_words_is_suggested() -> None:
    assert failure("mode", read("copi")).hint == "did you mean 'copy'?"


def test_text_of_a_command_line_needs_no_quotes() -> None:
    assert fill(Config, "foo", {"name": read(1.10, text="1.10")}).name == "1.10"
    assert fill(Config, "foo", {"port": read(80, text="80")}).port == 80
    assert fill(Config, "foo", {"path": read(7, text="7")}).path == Path("/etc/7")


def test_list_on_a_command_line_is_shown_how_to_be_written() -> None:
    assert "-o 'foo.words=[" in str(failure("words", read("a", text="a")).hint)


def test_value_that_the_class_refuses_is_an_error_with_its_source() -> None:
    error = failure("count", read(-1))
    assert (error.code, error.what, error.where) == (
        "config.value",
        "count is negative",
        "a.toml: foo",
    )


def test_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert fill(Config, "foo", {"path": read("~/x")}).path == Path("/home/me/x")


def test_option_names_are_spelt_with_hyphens() -> None:
    assert "fast-sync" in option_names(Config)
    assert unsupported_option(Config) is None


def test_types_that_toml_cannot_give_are_found() -> None:
    @dataclass(frozen=True)
    class Odd:
        table: dict[str, str] = None  # type: ignore[assignment]  # wrong on purpose

    @dataclass(frozen=True)
    class Bare:
        name: str

    assert "table" in str(unsupported_option(Odd))
    assert unsupported_option(Bare) == "name has no default"
