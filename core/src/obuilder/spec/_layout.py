"""How a spec is laid out for people: a line for each op, as OBuilder lays it out."""

from collections.abc import Callable

from obuilder.spec._boxes import BoxPrinter, Kind
from obuilder.spec.printer import print_atom
from obuilder.spec.sexp import Sexp

__all__ = ["Layout"]

PrintAtom = Callable[[BoxPrinter, str], None]


class Layout:
    """Writes S-expressions of the language into boxes; `atom` writes one atom."""

    def __init__(self, boxes: BoxPrinter, atom: PrintAtom = print_atom) -> None:
        self._boxes = boxes
        self._atom = atom

    def stage(self, items: tuple[Sexp, ...]) -> None:
        """A whole spec: its closing parenthesis has a line of its own."""
        boxes = self._boxes
        boxes.text("(")
        self._lines(items)
        boxes.space(0)
        boxes.text(")")

    def item(self, item: Sexp) -> None:
        """One item of a stage."""
        boxes = self._boxes
        match item:
            case ("build", str(name), tuple(items)):
                self._open_item("build", Kind.VERTICAL)
                self._atom(boxes, name)
                boxes.space(0)
                boxes.text("(")
                self._lines(items)
                boxes.text(")")
            case ("copy", *fields):
                self._open_item("copy", Kind.ALL)
                self._fields(fields, gap=1)
            case ("run", *fields):
                self._open_item("run", Kind.VERTICAL)
                self._fields(fields, gap=0)
            case _:
                self._one_line(item)
                return
        boxes.close()
        boxes.text(")")

    def _lines(self, items: tuple[Sexp, ...]) -> None:
        self._boxes.open(Kind.VERTICAL)
        for index, item in enumerate(items):
            if index:
                self._boxes.space(0)
            self.item(item)
        self._boxes.close()

    def _open_item(self, tag: str, kind: Kind) -> None:
        self._boxes.text(f"({tag} ")
        self._boxes.open(kind)

    def _fields(self, fields: list[Sexp], *, gap: int) -> None:
        for index, item in enumerate(fields):
            if index:
                self._boxes.space(gap)
            self._one_line(item)

    def _one_line(self, item: Sexp) -> None:
        self._boxes.open(Kind.FLAT)
        self._flat(item)
        self._boxes.close()

    def _flat(self, item: Sexp) -> None:
        boxes = self._boxes
        if isinstance(item, str):
            self._atom(boxes, item)
            return
        boxes.text("(")
        for index, part in enumerate(item):
            if index:
                boxes.space()
            self._flat(part)
        boxes.text(")")
