"""Variables in the words of an instruction: `$A`, `${A}`, `${A:-b}`, and the quotes around them."""

import re
from collections.abc import Callable

from obuilder.spec.from_dockerfile.refusals import no_equal, too_large, wrong

__all__ = ["Budget", "Expander", "Lookup"]

Lookup = Callable[[str], str | None]
"""The value of a variable, None if it has none. SpecError if that cannot be known here."""

_NAME = re.compile(r"[^\W\d]\w*|\d+|[@*#?$!-]")
_DEPTH = 20


class Budget:
    """How much more may be copied: variables in variables double with each line."""

    def __init__(self, left: int = 1 << 23) -> None:
        self._left = left

    def take(self, amount: int) -> None:
        """SpecError (`dockerfile.too-large`) once too much was taken in all."""
        self._left -= amount
        if self._left < 0:
            raise too_large("variables and stages that stand for more than 8 MiB of text")


class Expander:
    """Expands in the way of one Dockerfile's escape character."""

    def __init__(self, escape: str, budget: Budget) -> None:
        self.escape = escape
        self.budget = budget
        self.plain = re.compile(rf"""[^'"$}}{re.escape(escape)}]+""")

    def __call__(self, text: str, lookup: Lookup, *, strict: bool = False) -> str:
        """`text` without quotes and escapes, variables replaced. SpecError.

        A variable without a value is nothing, or an error if `strict`.
        """
        return _Expansion(self, text, lookup, strict=strict).until("")


class _Expansion:
    def __init__(self, expander: Expander, text: str, lookup: Lookup, *, strict: bool) -> None:
        self._strict = strict
        self._escape = expander.escape
        self._plain = expander.plain
        self._budget = expander.budget
        self._text = text
        self._lookup = lookup
        self._at = 0
        self._depth = 0

    def until(self, stop: str) -> str:
        """What comes before `stop`, or before the end if it is empty."""
        out: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == stop:
                self._at += 1
                return "".join(out)
            if char == "'":
                out.append(self._single())
            elif char == '"':
                out.append(self._double())
            elif char == "$":
                out.append(self._dollar())
            elif char == self._escape:
                out.append(self._text[self._at + 1 : self._at + 2])
                self._at += 2
            else:
                found = self._plain.match(self._text, self._at)
                out.append(found[0] if found else char)
                self._at = found.end() if found else self._at + 1
        if stop:
            raise wrong(f"a ${{ that no }} ends in {self._text[:60]!r}")
        return "".join(out)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise self._open("'")
        inner = self._text[self._at + 1 : end]
        self._at = end + 1
        return inner

    def _double(self) -> str:
        out: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
            elif char == self._escape:
                after = self._text[self._at + 1 : self._at + 2]
                taken = after in ('"', "$", self._escape)
                out.append(after if taken else char if after else "")
                self._at += 2 if taken else 1
            else:
                found = self._plain.match(self._text, self._at)
                out.append(found[0] if found else char)
                self._at = found.end() if found else self._at + 1
        raise self._open('"')

    def _open(self, quote: str) -> Exception:
        return wrong(f"a quote {quote} that nothing ends in {self._text[:60]!r}")

    def _dollar(self) -> str:
        self._at += 1
        if self._text.startswith("{", self._at):
            self._at += 1
            return self._braced()
        name = self._name()
        return self._bare_value(name) if name else "$"

    def _braced(self) -> str:
        name = self._name()
        operator = self._text[self._at : self._at + 1]
        self._at += 1
        if not name or not operator:
            raise wrong(f"a bad substitution in {self._text[:60]!r}")
        if operator == "}":
            return self._bare_value(name)
        empty_counts = operator != ":"
        if operator == ":":
            operator = self._text[self._at : self._at + 1]
            self._at += 1
        if operator not in ("-", "+", "?"):
            raise no_equal(
                f"${{{name}{operator}...}} in {self._text[:60]!r}",
                "${NAME}, ${NAME:-default}, ${NAME:+other} and ${NAME:?message} are known",
            )
        other = self._nested()
        value = self._value(name)
        is_set = value is not None and (empty_counts or value != "")
        if operator == "?" and not is_set:
            raise wrong(f"{name}: {other or 'it has no value'}")
        return (other if is_set else "") if operator == "+" else (value or "") if is_set else other

    def _nested(self) -> str:
        self._depth += 1
        if self._depth > _DEPTH:
            raise no_equal(f"substitutions more than {_DEPTH} deep")
        other = self.until("}")
        self._depth -= 1
        return other

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if not found:
            return ""
        self._at = found.end()
        return found[0]

    def _bare_value(self, name: str) -> str:
        value = self._value(name)
        if value is None and self._strict:
            raise no_equal(f"${name} has no value here", f"give it a default: ARG {name}=VALUE")
        return value or ""

    def _value(self, name: str) -> str | None:
        value = self._lookup(name)
        if value is not None:
            self._budget.take(len(value))
        return value
