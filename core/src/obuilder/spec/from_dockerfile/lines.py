"""The lines of a Dockerfile to its instructions: directives, comments, continuations, heredocs.

This follows BuildKit, whose own parser is Docker's. Parsers on PyPI that were
looked at: dockerfile 3.4.0 (BuildKit's in Go: aborts the process on text that
is not UTF-8, stops at the first error, no comments), dockerfile-parse 2.0.1
(reads the lines of a heredoc as instructions, knows the backslash alone, loses
the spacing of joined lines), e2b-dockerfile-utils 0.1.1 (new; quadratic in
continuation lines, RecursionError on nested brackets, stops at the first
error, no comments).
"""

import re
from dataclasses import dataclass, field

from obuilder.spec.from_dockerfile.refusals import Refusals, no_equal, wrong
from obuilder.spec.from_dockerfile.words import Words, heredoc_markers, is_json

__all__ = ["Heredoc", "Instruction", "Remark", "Source", "read_lines"]

_DIRECTIVE = re.compile(r"#[ \t]*([a-zA-Z][a-zA-Z0-9]*)[ \t]*=[ \t]*(\S.*?)?[ \t\r]*")
_BLANKS = " \t\v\f\r"
_NAME = re.compile(r"([^ \t\v\f\r]*)[ \t\v\f\r]*(.*)", re.DOTALL)
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")
_LANGUAGE = re.compile(r"(.*/)?dockerfile(-upstream)?([:@].*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heredoc:
    """The lines that `<<name` stands for; `chomp` takes the tabs that they begin with."""

    name: str
    chomp: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A comment that stands alone."""

    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """A name in capitals, `--flags`, the rest; `remarks` stand just before it or within it."""

    line: int
    name: str
    flags: tuple[str, ...]
    text: str
    heredocs: tuple[Heredoc, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Source:
    """What a Dockerfile holds, in order, and the character that escapes in it."""

    items: list[Instruction | Remark] = field(default_factory=list)
    escape: str = "\\"


def read_lines(text: str, refusals: Refusals) -> Source:
    """The instructions of a Dockerfile, in time linear in its length."""
    reader = _Reader(text.removeprefix("\ufeff"), refusals)
    reader.read()
    return reader.source


class _Reader:
    def __init__(self, text: str, refusals: Refusals) -> None:
        # What follows the last newline is a line only if there is something.
        self._lines = text.split("\n")
        if not self._lines[-1]:
            self._lines.pop()
        self._next = 0
        self._refusals = refusals
        # Comments that belong to the instruction that follows, unless a blank line comes first.
        self._remarks: list[Remark] = []
        self.source = Source()

    def read(self) -> None:
        self._directives()
        words = Words(self.source.escape)
        while self._next < len(self._lines):
            line = self._lines[self._next].lstrip(_BLANKS)
            if line.startswith("#"):
                self._next += 1
                self._remarks.append(Remark(line=self._next, text=_remark(line)))
            elif not line:
                self._next += 1
                self._loosen()
            else:
                self._instruction(words)
        self._loosen()

    def _loosen(self) -> None:
        self.source.items += self._remarks
        self._remarks.clear()

    def _directives(self) -> None:
        seen: set[str] = set()
        while self._next < len(self._lines):
            found = _DIRECTIVE.fullmatch(self._lines[self._next].strip(_BLANKS))
            name = found[1].lower() if found else ""
            if not found or found[2] is None or name not in {"syntax", "escape", "check"}:
                return
            self._next += 1
            if name in seen:
                self._refusals.add(self._next, wrong(f"the directive {name} comes twice"))
            seen.add(name)
            self._directive(name, found[2])

    def _directive(self, name: str, value: str) -> None:
        if name == "escape" and value in {"\\", "`"}:
            self.source.escape = value
        elif name == "escape":
            error = wrong(f"escape={value}, expected \\ or `")
            self._refusals.add(self._next, error)
        elif name == "syntax" and not _LANGUAGE.fullmatch(value):
            error = no_equal(
                f"syntax={value}: it may mean anything", "`docker/dockerfile` is known"
            )
            self._refusals.add(self._next, error)

    def _instruction(self, words: Words) -> None:
        start = self._next + 1
        joined = self._joined()
        remarks = [remark.text for remark in self._remarks]
        self._remarks.clear()
        found = _NAME.match(joined.strip(_BLANKS))
        name, rest = found.groups() if found else ("", "")
        flags, text = words.flags(rest)
        text = text.strip(_BLANKS)
        heredocs: tuple[Heredoc, ...] = ()
        if name.upper() in _WITH_HEREDOCS and "<<" in joined and not is_json(text):
            heredocs = self._heredocs(start, joined)
        self.source.items.append(
            Instruction(
                line=start,
                name=name.upper(),
                flags=flags,
                text=text,
                heredocs=heredocs,
                remarks=(*remarks, *(remark.text for remark in self._remarks)),
            )
        )
        self._remarks.clear()

    def _joined(self) -> str:
        """The lines of an instruction as one; comments and blank lines on the way fall out."""
        parts: list[str] = []
        more = True
        while more and self._next < len(self._lines):
            line = self._lines[self._next].rstrip("\r")
            self._next += 1
            stripped = line.lstrip(_BLANKS)
            if parts and stripped.startswith("#"):
                self._remarks.append(Remark(line=self._next, text=_remark(stripped)))
            elif stripped or not parts:
                line, more = self._without_escape(line)
                parts.append(line)
        return "".join(parts)

    def _without_escape(self, line: str) -> tuple[str, bool]:
        escape = self.source.escape
        stripped = line.rstrip(" \t")
        if stripped.endswith(escape) and stripped[-2:-1] != escape:
            return stripped[:-1], True
        return line, False

    def _heredocs(self, start: int, joined: str) -> tuple[Heredoc, ...]:
        found: list[Heredoc] = []
        for name, chomp in heredoc_markers(joined):
            lines: list[str] = []
            while self._next < len(self._lines):
                line = self._lines[self._next]
                self._next += 1
                end = line.rstrip("\r")
                if (end.lstrip("\t") if chomp else end) == name:
                    break
                lines.append(f"{line}\n")
            else:
                self._refusals.add(start, wrong(f"a heredoc that no line {name} ends"))
                break
            found.append(Heredoc(name=name, chomp=chomp, text="".join(lines)))
        return tuple(found)


def _remark(line: str) -> str:
    return line[1:].removeprefix(" ").rstrip("\r")
