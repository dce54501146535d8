"""Reading and printing S-expressions agrees with sexplib on every golden vector."""

import json
from pathlib import Path
from typing import Any

import pytest

from obuilder.errors import SpecError
from obuilder.spec import parse_sexps, to_hum, to_mach

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "sexp.json").read_bytes())


def test_all_rows_are_there() -> None:
    assert len(ROWS) == 133


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{i}-{row['src'][:20]!a}" for i, row in enumerate(ROWS)]
)
def test_source_is_read_and_printed_as_by_sexplib(row: dict[str, Any]) -> None:
    source = row["src"].encode()
    if "error" in row:
        with pytest.raises(SpecError) as caught:
            parse_sexps(source)
        assert caught.value.code == "spec.syntax"
        return
    sexps = [node.sexp() for node in parse_sexps(source)]
    assert [{"mach": to_mach(s), "hum": to_hum(s)} for s in sexps] == row["ok"]
