"""Splitting the text of an instruction into words, as Docker does it in four ways."""

import json
import re
from collections.abc import Iterator

from obuilder.spec.from_dockerfile.refusals import no_equal, wrong

__all__ = [
    "Words",
    "blank_words",
    "heredoc_markers",
    "is_json",
    "is_only_heredoc",
    "json_words",
]

_JSON_STRING = r'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_S = r"[ \t\r\n]*+"
_JSON_WORDS = re.compile(
    rf"{_S}\[{_S}(?:{_JSON_STRING}{_S}(?:,{_S}{_JSON_STRING}{_S})*+)?\]{_S}", re.DOTALL
)
_JSON_WORD = re.compile(_JSON_STRING, re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")

# Words as a shell takes them, quotes and escapes kept; `<<` takes the blanks after it along.
_SHELL_WORD = re.compile(
    r"""(?:\\.|'[^']*+'|"(?:\\.|[^"\\])*+"|\$\{[^}]*+\}|<<[ \t\r]*+|\$(?!\{)|[^\s'"\\$<]++|<)++""",
    re.DOTALL,
)
_HEREDOC = re.compile(r"\d*<<(-?)\s*([^<]+)")
_QUOTED = re.compile(r"""\\(.)|'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)


# In flags a backslash escapes, whatever `# escape=` says.
_FLAG = re.compile(
    r"""\\(.)|'((?:\\.|[^'\\])*+)'?+|"((?:\\.|[^"\\])*+)"?+|([^\s'"\\]++)""", re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BLANKS = re.compile(r"[\t\v\f\r ]+")


class Words:
    """The ways that depend on the escape character, and flags."""

    def __init__(self, escape: str) -> None:
        e = re.escape(escape)
        # A quote that nothing ends, and an escape at the very end, are taken as they are.
        self._quoted_word = re.compile(
            rf"""(?:{e}.|'[^']*+'?+|"(?:{e}.|[^"{e}])*+(?:"|{e}\Z)?+|[^\s'"{e}]++|{e}\Z)++""",
            re.DOTALL,
        )

    def flags(self, text: str) -> tuple[tuple[str, ...], str]:
        """The words at the start that begin with `--`, unquoted, and what follows them."""
        flags: list[str] = []
        position = _skip_blanks(text, 0)
        while text.startswith("--", position):
            pieces: list[str] = []
            while found := _FLAG.match(text, position):
                position = found.end()
                pieces.append(self._unquoted(found))
            if position < len(text) and not text[position].isspace():
                position = len(text)  # an escape with nothing after it
            position = _skip_blanks(text, position)
            flag = "".join(pieces)
            if flag == "--":
                break
            flags.append(flag)
        return tuple(flags), text[position:]

    def _unquoted(self, found: re.Match[str]) -> str:
        escaped, single, double, plain = found.groups()
        if escaped is not None:
            return escaped
        if plain is not None:
            return plain
        return _ESCAPED.sub(r"\1", single if single is not None else double)

    def quoted(self, text: str) -> list[str]:
        """Words that may hold blanks within quotes or after an escape; both are kept."""
        return self._quoted_word.findall(text)


def blank_words(text: str) -> list[str]:
    """Words between blanks, quotes and escapes as they are; text has no blanks at its ends."""
    return _BLANKS.split(text) if text else []


def is_json(text: str) -> bool:
    """Whether `text` is a JSON array of strings."""
    return _JSON_WORDS.fullmatch(text) is not None


def json_words(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, or None if `text` is no array. SpecError for other arrays."""
    if is_json(text):
        return tuple(map(_json_word, _JSON_WORD.findall(text)))
    if text.startswith("[") and text.endswith("]") and _is_array(text):
        raise wrong(f"{text[:60]} holds something else than strings")
    return None


def _is_array(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):  # it is a text for a shell, as in `[ -f x ]`
        return False


def _json_word(written: str) -> str:
    try:
        word = str(json.loads(written))
    except ValueError as error:
        raise wrong(f"{written[:60]} is not a JSON string: {error}") from None
    # Half a pair; a byte that is not UTF-8 is held as one too, but was written as it is.
    if len(_SURROGATE.findall(word)) > len(_SURROGATE.findall(written)):
        raise no_equal(f"{written[:60]} stands for no bytes")
    return word


def heredoc_markers(line: str) -> Iterator[tuple[str, bool]]:
    """The name of each heredoc in a line, and whether tabs are taken away."""
    if not _is_closed(line):
        return
    for word in _SHELL_WORD.findall(line):
        if found := _HEREDOC.fullmatch(word):
            name = _QUOTED.sub(lambda quoted: "".join(filter(None, quoted.groups())), found[2])
            yield name, found[1] == "-"


def is_only_heredoc(text: str) -> bool:
    """Whether a command is nothing but one `<<name`."""
    word = _SHELL_WORD.fullmatch(text)
    return word is not None and _HEREDOC.fullmatch(text) is not None


def _is_closed(line: str) -> bool:
    """Whether every quote and brace ends: Docker sees no heredoc in a line where one does not."""
    position = 0
    while position < len(line):
        found = _SHELL_WORD.match(line, position)
        if found:
            position = found.end()
        elif line[position].isspace():
            position = _skip_blanks(line, position)
        else:
            return line[position:] == "\\"
    return True


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
