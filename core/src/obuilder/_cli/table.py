"""The table that `obuilder backends` prints."""

from collections.abc import Iterable, Sequence

from obuilder._core.drivers.plugins import Plugins
from obuilder.errors import PluginError

__all__ = ["backend_rows", "format_table"]

_HEADER = ("KIND", "DRIVER", "DISTRIBUTION", "VERSION", "STATE")


def backend_rows(plugins: Plugins) -> list[tuple[str, ...]]:
    """A row for each installed driver; each is imported to see whether it works."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for backend in plugins.backends():
        try:
            plugins.load(backend.kind, backend.name)
            state = "ok"
        except PluginError as error:
            state = error.what
        rows.append((backend.kind.name, backend.name, backend.distribution, backend.version, state))
    return rows


def format_table(rows: Sequence[Iterable[str]]) -> str:
    """Columns as wide as they need to be; the last one runs on."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
