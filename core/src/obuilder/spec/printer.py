"""S-expressions to text: the machine form, which ids are computed over, and the human form."""

import re
from collections.abc import Iterator

from obuilder.spec._boxes import BoxPrinter, Kind
from obuilder.spec.sexp import Sexp, atom_bytes

__all__ = ["print_atom", "quoted", "to_hum", "to_mach"]

_NEEDS_QUOTES = re.compile(r'["();\\\x00-\x20\x7f-\U0010ffff]|\|#|#\|')
_NAMED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b"}
_ESCAPED = [f"\\{byte:03}" for byte in range(256)]
_ESCAPED[32:127] = map(chr, range(32, 127))
for _char, _written in _NAMED.items():
    _ESCAPED[ord(_char)] = _written


def to_mach(sexp: Sexp) -> str:
    """The shortest form, in ASCII: no blank unless two bare atoms meet (`to_string_mach`)."""
    out: list[str] = []
    after_bare = False
    stack: list[Iterator[Sexp]] = [iter((sexp,))]
    while stack:
        for item in stack[-1]:
            if isinstance(item, str):
                atom = _atom(item)
                bare = atom is item
                out.append(f" {atom}" if bare and after_bare else atom)
                after_bare = bare
            else:
                out.append("(")
                after_bare = False
                stack.append(iter(item))
                break
        else:
            stack.pop()
            if stack:
                out.append(")")
                after_bare = False
    return "".join(out)


def to_hum(sexp: Sexp) -> str:
    """The form for people, in ASCII: lines of up to 77 columns (`to_string_hum`)."""
    if isinstance(sexp, str) and "\n" not in sexp:
        return _atom(sexp)
    boxes = BoxPrinter()
    stack: list[Iterator[Sexp]] = [iter((sexp,))]
    first = True
    while stack:
        for item in stack[-1]:
            if not first:
                boxes.space()
            if isinstance(item, str):
                print_atom(boxes, item)
                first = False
            elif item:
                boxes.open(Kind.STRUCTURE, 1)
                boxes.text("(")
                first = True
                stack.append(iter(item))
                break
            else:
                boxes.text("()")
                first = False
        else:
            stack.pop()
            if stack:
                boxes.text(")")
                boxes.close()
                first = False
    return boxes.finish()


def quoted(text: str) -> str:
    """An atom in quotes, whether it needs them or not: how messages show a text."""
    return f'"{_escape(text)}"'


def print_atom(boxes: BoxPrinter, text: str) -> None:
    """Print an atom for people: one line of source for each line of its text."""
    _, _, after_newline = text.partition("\n")
    if not after_newline:
        boxes.text(_atom(text))
        return
    lines = text.split("\n")
    boxes.open(Kind.STRUCTURE)
    boxes.text(' "')
    boxes.text(_escape(lines[0]))
    for line in lines[1:]:
        boxes.text("\\")
        boxes.newline()
        boxes.text("\\n")
        boxes.text(_escape(line))
    boxes.text('"')
    boxes.close()


def _atom(text: str) -> str:
    """The atom as it is written: itself if that is readable, else in quotes."""
    return f'"{_escape(text)}"' if not text or _NEEDS_QUOTES.search(text) else text


def _escape(text: str) -> str:
    return "".join([_ESCAPED[byte] for byte in atom_bytes(text)])
