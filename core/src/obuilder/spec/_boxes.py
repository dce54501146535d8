"""Line breaking by nested boxes, decided exactly as OCaml's Format decides it.

This is Oppen's algorithm: what is written waits in a queue until it is known
whether the group that it begins fits on the line, or that it cannot. OBuilder
prints headings and specs through Format, so a difference of one column shows
in its logs; hence its margin and its limit on indentation, and its habit of
deciding as soon as the text that waits reaches the margin.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["MARGIN", "BoxPrinter", "Kind"]

# Format's own values for a new formatter; a line holds at most MARGIN - 1 columns.
MARGIN = 78
_MAX_INDENT = MARGIN - 10
_ENDLESS = 10**10


class Kind(Enum):
    """What a box does with its breaks when it does not fit on the line."""

    FLAT = auto()  # none splits
    VERTICAL = auto()  # each splits, even if the box fits
    ALL = auto()  # each splits
    FILL = auto()  # those split after which the next piece does not fit
    STRUCTURE = auto()  # like FILL, and also where splitting moves to the left


class _Token(Enum):
    TEXT = auto()
    BREAK = auto()
    NEWLINE = auto()
    OPEN = auto()
    CLOSE = auto()


@dataclass(slots=True)
class _Item:
    token: _Token
    # Columns to the end of the group; below zero until that end is seen.
    size: int
    length: int = 0
    text: str = ""
    indent: int = 0
    kind: Kind = Kind.FLAT


class BoxPrinter:
    """Collects text, breaks and boxes; `finish` returns the lines."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._space_left = MARGIN
        self._line_indent = 0
        self._at_line_start = True
        self._queue: deque[_Item] = deque()
        # Widths so far of what was printed, and of what was ever enqueued.
        self._printed = 1
        self._enqueued = 1
        # Breaks and boxes whose size is open, with the enqueued width when they came.
        self._unsized: list[tuple[int, _Item]] = []
        self._boxes: list[tuple[Kind, int]] = []
        self.open(Kind.FILL)

    def text(self, text: str, *, width: int | None = None) -> None:
        """Print `text`, one column a character unless `width` says how many."""
        columns = len(text) if width is None else width
        self._enqueue(_Item(_Token.TEXT, columns, columns, text))
        self._advance()

    def newline(self) -> None:
        """Start a new line at the indentation of the box."""
        self._enqueue(_Item(_Token.NEWLINE, 0))
        self._advance()

    def space(self, width: int = 1) -> None:
        """Allow a new line here, else print `width` blanks."""
        item = _Item(_Token.BREAK, -self._enqueued, width)
        self._enqueue(item)
        self._settle(_Token.BREAK)
        self._unsized.append((self._enqueued, item))

    def open(self, kind: Kind, indent: int = 0) -> None:
        """Begin a box; its new lines are indented to where it begins, and `indent` more."""
        item = _Item(_Token.OPEN, -self._enqueued, indent=indent, kind=kind)
        self._enqueue(item)
        self._unsized.append((self._enqueued, item))

    def close(self) -> None:
        """End the innermost box."""
        self._enqueue(_Item(_Token.CLOSE, 0))
        self._settle(_Token.BREAK)
        self._settle(_Token.OPEN)

    def finish(self) -> str:
        """Everything, laid out; the printer is used up."""
        self._enqueued = _ENDLESS
        self._advance()
        return "".join(self._out)

    def _enqueue(self, item: _Item) -> None:
        self._enqueued += item.length
        self._queue.append(item)

    def _settle(self, token: _Token) -> None:
        """The group that the last open `token` began ends here: its size is known."""
        if not self._unsized:
            return
        came_at, item = self._unsized[-1]
        if came_at < self._printed:
            # It was printed before its end came, and so was what came before it.
            self._unsized.clear()
        elif item.token is token:
            item.size += self._enqueued
            self._unsized.pop()

    def _advance(self) -> None:
        queue = self._queue
        while queue:
            item = queue[0]
            size = item.size
            if size < 0:
                if self._enqueued - self._printed < self._space_left:
                    return
                size = _ENDLESS
            queue.popleft()
            self._print(item, size)
            self._printed += item.length

    def _print(self, item: _Item, size: int) -> None:
        match item.token:
            case _Token.TEXT:
                self._out.append(item.text)
                self._space_left -= size
                self._at_line_start = False
            case _Token.BREAK:
                if self._splits(size):
                    self._new_line(self._boxes[-1][1])
                else:
                    self._out.append(" " * item.length)
                    self._space_left -= item.length
            case _Token.NEWLINE:
                self._new_line(self._boxes[-1][1])
            case _Token.OPEN:
                self._begin(item, size)
            case _Token.CLOSE:
                self._boxes.pop()

    def _begin(self, item: _Item, size: int) -> None:
        if MARGIN - self._space_left > _MAX_INDENT and self._boxes:
            kind, width = self._boxes[-1]
            if kind is not Kind.FLAT and width > self._space_left:
                self._new_line(width)
        fits = item.kind is not Kind.VERTICAL and size <= self._space_left
        self._boxes.append((Kind.FLAT if fits else item.kind, self._space_left - item.indent))

    def _splits(self, size: int) -> bool:
        kind, width = self._boxes[-1]
        match kind:
            case Kind.FLAT:
                return False
            case Kind.VERTICAL | Kind.ALL:
                return True
            case Kind.FILL:
                return size > self._space_left
            case Kind.STRUCTURE:
                if self._at_line_start:
                    return False
                return size > self._space_left or self._line_indent > MARGIN - width

    def _new_line(self, width: int) -> None:
        self._line_indent = min(_MAX_INDENT, MARGIN - width)
        self._space_left = MARGIN - self._line_indent
        self._out.append("\n" + " " * self._line_indent)
        self._at_line_start = True
