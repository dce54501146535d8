"""The canonical layout of a spec's text: blanks change, atoms and comments stay as they are.

A text without comments and blank lines comes out as `pretty` lays out its
stage, but for the spelling of atoms. One blank line between items is kept.
Where a string goes on after a backslash at the end of a line, which swallows
the blanks that follow, those lines move with the one that it begins on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from obuilder.spec._boxes import MARGIN, BoxPrinter, Kind
from obuilder.spec._layout import Layout
from obuilder.spec.ast import Stage
from obuilder.spec.parser import parse
from obuilder.spec.printer import to_mach
from obuilder.spec.reader import Token, parse_sexps, tokens
from obuilder.spec.sexp import Sexp
from obuilder.spec.writer import pretty

__all__ = ["canonical", "format_spec"]

_COMMENTS = ("line", "block")
# Stands for a string of several lines until its column is known. No text that was
# decoded with surrogateescape holds this character.
_PLACE = "\udb80"
_PLACES = re.compile(f"{_PLACE}([0-9]+){_PLACE}")
# A newline that an odd number of backslashes swallows, with the blanks after it.
_CONTINUED = re.compile(r"((?<!\\)(?:\\\\)*\\\r?\n)( *+)(?!\t)")


@dataclass(slots=True)
class _Piece:
    """An atom, a comment, or a list with what is in it, comments too."""

    kind: str
    text: str
    first_line: int
    last_line: int
    parts: "list[_Piece]" = field(default_factory=list)
    # Whether there is a comment or a blank line in it, at any depth.
    broken: bool = False

    @property
    def is_comment(self) -> bool:
        return self.kind in _COMMENTS

    def sexp(self) -> Sexp:
        """A list without comments, of atoms as they are written."""
        if self.kind != "list":
            return self.text
        return tuple(part.sexp() for part in self.parts)


def format_spec(text: bytes, *, file: str = "<spec>") -> bytes:
    """The text in its canonical layout, ending in a newline. SpecError as `parse`.

    It reads as the same stage, and formatting it again changes nothing.
    """
    parse(text, file=file)
    pieces = _Pieces(text.decode("utf-8", "surrogateescape"))
    lines: list[str] = []
    before: _Piece | None = None
    for piece in pieces.read():
        written = piece.text if piece.is_comment else pieces.restored(_laid_out(piece))
        if before is not None and _trails(piece, before):
            lines[-1] += f" {written}"
        else:
            if before is not None and _is_apart(piece, before):
                lines.append("")
            lines.append(written)
        before = piece
    return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")


def canonical(stage: Stage) -> str:
    """A stage's text, which formatting leaves as it is; without a last newline."""
    text = pretty(stage)
    if "\\\n" not in text:
        return text
    # OBuilder's layout of an atom of several lines has a blank too many.
    return format_spec(text.encode()).decode().removesuffix("\n")


class _Pieces:
    """Reads a valid text into pieces."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._top: list[_Piece] = []
        self._open: list[_Piece] = []
        self._strings: list[tuple[str, int]] = []

    def restored(self, text: str) -> str:
        """A layout with the strings of several lines in their places."""
        done = ""
        end = 0
        for place in _PLACES.finditer(text):
            done += text[end : place.start()]
            end = place.end()
            string, column = self._strings[int(place[1])]
            moved = len(done) - (done.rfind("\n") + 1) - column
            done += _moved(string, moved)
        return done + text[end:]

    def read(self) -> list[_Piece]:
        left_out: _LeftOut | None = None
        for token in tokens(self._source):
            if left_out is None and token.kind == "skip":
                left_out = _LeftOut(token)
            elif left_out is not None:
                if left_out.ends_with(token):
                    first = left_out.first
                    text = self._source[first.start : token.end]
                    self._put(_Piece("block", text, first.line, token.last_line))
                    left_out = None
            elif token.kind == "open":
                self._open.append(_Piece("list", "", token.line, token.last_line))
            elif token.kind == "close":
                piece = self._open.pop()
                piece.last_line = token.last_line
                self._put(piece)
            else:
                kind = token.kind if token.kind in _COMMENTS else "atom"
                self._put(_Piece(kind, self._text(token), token.line, token.last_line))
        return self._top

    def _text(self, token: Token) -> str:
        text = self._source[token.start : token.end]
        if token.kind == "line":
            return text.rstrip()
        if token.kind == "string" and "\n" in text:
            column = token.start - (self._source.rfind("\n", 0, token.start) + 1)
            self._strings.append((text, column))
            return f"{_PLACE}{len(self._strings) - 1}{_PLACE}"
        return text

    def _put(self, piece: _Piece) -> None:
        if not self._open:
            self._top.append(piece)
            return
        into = self._open[-1]
        if piece.kind == "atom" and piece.text.startswith('"') and not _values(into.parts):
            # The name of an op or of a field is written bare.
            (node,) = parse_sexps(piece.text.encode("utf-8", "surrogateescape"))
            piece.text = to_mach(node.sexp())
        into.broken = into.broken or piece.is_comment or piece.broken or _leaves_room(piece, into)
        into.parts.append(piece)


class _LeftOut:
    """What `#;` leaves out: one S-expression for each that stands before it."""

    def __init__(self, first: Token) -> None:
        self.first = first
        self._awaited = 1
        self._depth = 0

    def ends_with(self, token: Token) -> bool:
        if token.kind == "open":
            self._depth += 1
        elif token.kind == "close":
            self._depth -= 1
        elif token.kind == "skip" and not self._depth:
            self._awaited += 1
        if not self._depth and token.kind in {"close", "atom", "string"}:
            self._awaited -= 1
        return not self._awaited


def _values(pieces: Sequence[_Piece]) -> list[_Piece]:
    return [piece for piece in pieces if not piece.is_comment]


def _trails(piece: _Piece, before: _Piece) -> bool:
    """Whether a comment stands on the line of what comes before it."""
    return piece.is_comment and piece.first_line == before.last_line


def _is_apart(piece: _Piece, before: _Piece) -> bool:
    """Whether a blank line comes before it."""
    return piece.first_line > before.last_line + 1


def _leaves_room(piece: _Piece, into: _Piece) -> bool:
    """Whether the blank line before the next part of a list is one to keep."""
    parts = into.parts
    after_name = len(parts) == 1 and parts[0].kind == "atom"
    return bool(parts) and not after_name and _is_apart(piece, parts[-1])


def _laid_out(piece: _Piece) -> str:
    boxes = BoxPrinter()
    _Writer(boxes).top(piece)
    return boxes.finish()


class _Writer:
    """Lays pieces out as `Layout` does, with room for comments and blank lines."""

    def __init__(self, boxes: BoxPrinter) -> None:
        self._boxes = boxes
        self._plain = Layout(boxes, _verbatim)

    def top(self, piece: _Piece) -> None:
        boxes = self._boxes
        boxes.text("(")
        boxes.open(Kind.VERTICAL)
        self._each(piece.parts)
        boxes.close()
        if _ends_in_line_comment(piece):
            boxes.newline()
        else:
            boxes.space(0)
        boxes.text(")")

    def _item(self, piece: _Piece) -> None:
        if piece.kind == "atom":
            _verbatim(self._boxes, piece.text)
        elif piece.broken:
            self._broken(piece)
        else:
            self._plain.item(piece.sexp())

    def _broken(self, piece: _Piece) -> None:
        """A list with each of its items on a line, after its name."""
        boxes = self._boxes
        parts = piece.parts
        boxes.text("(")
        if parts[0].kind == "atom":
            _verbatim(boxes, parts[0].text)
            boxes.text(" ")
            boxes.open(Kind.VERTICAL)
            self._each(parts[1:])
        else:
            boxes.open(Kind.VERTICAL)
            self._each(parts)
        if _ends_in_line_comment(piece):
            boxes.space(0)
        boxes.close()
        boxes.text(")")

    def _each(self, parts: Sequence[_Piece]) -> None:
        boxes = self._boxes
        before = None
        for piece in parts:
            if before is not None:
                if _trails(piece, before):
                    boxes.text(" ")
                else:
                    if _is_apart(piece, before):
                        boxes.text("\n", width=0)
                    boxes.space(0)
            if piece.is_comment:
                boxes.text(piece.text)
            else:
                self._item(piece)
            before = piece


def _verbatim(boxes: BoxPrinter, text: str) -> None:
    # Nothing stands after a string of several lines.
    boxes.text(text, width=MARGIN if text.startswith(_PLACE) else None)


def _moved(string: str, columns: int) -> str:
    def line(end: re.Match[str]) -> str:
        return end[1] + " " * max(0, len(end[2]) + columns)

    return _CONTINUED.sub(line, string)


def _ends_in_line_comment(piece: _Piece) -> bool:
    return bool(piece.parts) and piece.parts[-1].kind == "line"
