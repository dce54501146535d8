r"""Text to S-expressions, by the rules of Jane Street's sexplib and with positions.

Why not sexpdata's parser (1.0.2), which this could have been a subclass of: it
drops positions, has other escapes, no `#;` and no `#| |#`, ends atoms at `[`
and `{`, takes `'` for a quotation and a backslash in an atom for an escape, and
calls itself for every list, so that deep input ends in a RecursionError. Each
of its methods would be replaced. It reads the plain part of the language the
same way, and the tests hold our printer against it there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from obuilder.errors import SpecError
from obuilder.spec.sexp import Node, atom_bytes, atom_text

__all__ = ["MAX_DEPTH", "Token", "parse_sexps", "tokens"]

# Lists within lists. Real specs have under 30; code that walks one may call itself.
MAX_DEPTH = 1000

# Blanks, then what is told apart by its first characters; always matches.
_TOKEN = re.compile(
    r"""(?: [ \t\n\f]++ | \r\n )*+
      (?: (?P<open> \( )
        | (?P<close> \) )
        | (?P<atom> (?! \#[;|] ) [^;()"\ \t\n\f\r]++ )
        | (?P<string> " )
        | (?P<line> ; [^\r\n]*+ )
        | (?P<block> \#\| )
        | (?P<skip> \#; )
        | (?P<end> \Z )
        | (?P<wrong> )
      )""",
    re.VERBOSE,
)
_STRING_REST = re.compile(r'([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_COMMENT_TOKEN = re.compile(r'#\||\|#|"')
_COMMENT_IN_ATOM = re.compile(r"#\||\|#")
_ESCAPE = re.compile(
    r"\\(?:(\r?\n)[ \t]*+|([0-9]{3})|x([0-9a-fA-F]{2})|(.))",
    re.DOTALL,
)
_LONE_RETURN = "a carriage return that no newline follows"
_SIMPLE = {"n": "\n", "t": "\t", "b": "\b", "r": "\r", "\\": "\\", '"': '"', "'": "'", "\r": "\r"}


@dataclass(slots=True)
class _Frame:
    """A list that is still open, or the top level; `skip` counts `#;` that await their sexp."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    skip: int = 0

    def add(self, node: Node) -> None:
        if self.skip:
            self.skip -= 1
        else:
            self.items.append(node)


def parse_sexps(text: bytes, *, file: str = "<spec>") -> tuple[Node, ...]:
    """All S-expressions in `text`, in order; SpecError (`spec.syntax`) names `file`.

    Takes time and room linear in the text. Bytes that are not UTF-8 are data.
    Lists may be MAX_DEPTH deep (`spec.too-deep`).
    """
    return _Reader(text.decode("utf-8", "surrogateescape"), file).read()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of source; `kind` is `open`, `close`, `atom`, `string`, `line`, `block` or `skip`.

    It is `source[start:end]`; `line` and `last_line` are those of its first and last character.
    """

    kind: str
    start: int
    end: int
    line: int
    last_line: int


def tokens(source: str) -> Iterator[Token]:
    """All tokens of a text, comments too; SpecError if `parse_sexps` would not read them."""
    line = 1
    before = 0
    for kind, start, end in _Reader(source, "<spec>").tokens():
        line += source.count("\n", before, start)
        last = line + source.count("\n", start, end)
        yield Token(kind, start, end, line, last)
        line, before = last, end


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        # The line that the last token began on. Tokens come in order, so it only moves on.
        self._line = 1
        self._line_start = 0
        self._line_end = self._find_line_end()
        self._frames = [_Frame(1, 1)]

    def tokens(self) -> Iterator[tuple[str, int, int]]:
        """Kind, beginning and end of every token."""
        end = 0
        while token := _TOKEN.match(self._text, end):
            kind = token.lastgroup or ""
            start, end = token.span(kind)
            if kind == "string":
                _, end = self._string(start)
            elif kind == "block":
                end = self._block_comment(start)
            elif kind == "wrong":
                self._fail(start, _LONE_RETURN)
            elif kind == "end":
                return
            yield kind, start, end

    def read(self) -> tuple[Node, ...]:
        end = 0
        # The pattern always matches: its last alternative is empty.
        while token := _TOKEN.match(self._text, end):
            kind = token.lastgroup or ""
            start, end = token.span(kind)
            match kind:
                case "open":
                    self._open(start)
                case "close":
                    self._close(start)
                case "atom":
                    self._add(self._bare_atom(token[kind], start), start)
                case "string":
                    text, end = self._string(start)
                    self._add(text, start)
                case "block":
                    end = self._block_comment(start)
                case "skip":
                    self._frames[-1].skip += 1
                case "wrong":
                    self._fail(start, _LONE_RETURN)
                case "end":
                    break
        return self._end(end)

    def _end(self, position: int) -> tuple[Node, ...]:
        frame = self._frames[-1]
        if len(self._frames) > 1:
            raise self._error((frame.line, frame.column), 'a "(" that no ")" closes')
        if frame.skip:
            self._fail(position, 'nothing after "#;", which leaves out the S-expression after it')
        return tuple(frame.items)

    def _add(self, text: str, position: int) -> None:
        line, column = self._place(position)
        self._frames[-1].add(Node(text, line, column))

    def _open(self, position: int) -> None:
        if len(self._frames) > MAX_DEPTH:
            self._fail(position, f"lists more than {MAX_DEPTH} deep", code="spec.too-deep")
        self._frames.append(_Frame(*self._place(position)))

    def _close(self, position: int) -> None:
        if len(self._frames) == 1:
            self._fail(position, 'a ")" that no "(" opened')
        frame = self._frames.pop()
        if frame.skip:
            self._fail(position, '")" after "#;", expected an S-expression to leave out')
        self._frames[-1].add(Node(tuple(frame.items), frame.line, frame.column))

    def _bare_atom(self, atom: str, position: int) -> str:
        if "|" in atom and (comment := _COMMENT_IN_ATOM.search(atom)):
            self._fail(
                position + comment.start(),
                f'"{comment.group()}" within an atom, expected it in quotes or after a blank',
            )
        return atom

    def _string(self, position: int) -> tuple[str, int]:
        """The text of the string that starts here, and where it ends."""
        rest = _STRING_REST.match(self._text, position + 1)
        if rest is None:
            self._fail(position, "a string that does not end, expected its closing quote")
        body = rest.group(1)
        if "\\" in body:
            body = self._unescape(body, position + 1)
        return body, rest.end()

    def _unescape(self, body: str, start: int) -> str:
        by_number = False

        def replace(escape: re.Match[str]) -> str:
            nonlocal by_number
            newline, decimal, hexadecimal, char = escape.groups()
            if newline is not None:
                return ""
            if char is not None:
                if char in "0123456789x":
                    self._bad_escape(escape, start)
                return _SIMPLE.get(char, "\\" + char)
            byte = int(decimal) if decimal else int(hexadecimal, 16)
            if byte > 255:  # noqa: PLR2004 - a byte's range
                self._bad_escape(escape, start)
            by_number = True
            # Byte for byte for now: several may make up one character.
            return atom_text((byte,))

        body = _ESCAPE.sub(replace, body)
        return atom_text(atom_bytes(body)) if by_number else body

    def _bad_escape(self, escape: re.Match[str], start: int) -> NoReturn:
        self._fail(
            start + escape.start(),
            f'bad escape "{escape.group()}" in a string, expected \\ddd up to 255 or \\xhh',
        )

    def _block_comment(self, position: int) -> int:
        """Where the block comment that starts here ends; strings in it are read as strings."""
        depth = 0
        end = position
        while True:
            token = _COMMENT_TOKEN.search(self._text, end)
            if token is None:
                self._fail(position, 'a comment that does not end, expected "|#"')
            end = token.end()
            if token.group() == '"':
                _, end = self._string(token.start())
            else:
                depth += 1 if token.group() == "#|" else -1
                if depth == 0:
                    return end

    def _place(self, offset: int) -> tuple[int, int]:
        while offset > self._line_end:
            self._line_start = self._line_end + 1
            self._line += 1
            self._line_end = self._find_line_end()
        return self._line, offset - self._line_start + 1

    def _find_line_end(self) -> int:
        end = self._text.find("\n", self._line_start)
        return end if end >= 0 else len(self._text)

    def _fail(self, offset: int, what: str, *, code: str = "spec.syntax") -> NoReturn:
        raise self._error(self._place(offset), what, code=code)

    def _error(self, place: tuple[int, int], what: str, *, code: str = "spec.syntax") -> SpecError:
        line, column = place
        return SpecError(f"found {what}", where=f"{self._file}:{line}:{column}", code=code)
