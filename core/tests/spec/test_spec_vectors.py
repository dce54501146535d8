"""Specs are read, refused and laid out as OBuilder does it, on every golden vector."""

import json
from pathlib import Path
from typing import Any

import pytest

from obuilder.errors import SpecError
from obuilder.spec import (
    Stage,
    Workdir,
    heading,
    parse,
    pretty,
    stage_to_sexp,
    step_heading,
    to_mach,
)

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "spec.json").read_bytes())
ACCEPTED = [row for row in ROWS if "ok" in row]
REFUSED = [row for row in ROWS if "error" in row]
BUILDS: list[dict[str, Any]] = json.loads((GOLDEN / "ids.json").read_bytes())


def by_name(row: dict[str, Any]) -> str:
    return str(row["name"])


def test_all_rows_are_there() -> None:
    assert len(ROWS) == 78
    assert len(ACCEPTED) + len(REFUSED) == 78
    assert len(BUILDS) == 51


@pytest.mark.parametrize("row", REFUSED, ids=by_name)
def test_spec_that_obuilder_refuses_is_refused_with_its_place(row: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        parse(row["src"].encode(), file="x.spec")
    assert caught.value.code.startswith("spec.")
    assert caught.value.where is not None
    assert caught.value.where.startswith("x.spec:1:")
    assert "expected" in caught.value.what


@pytest.mark.parametrize("row", ACCEPTED, ids=by_name)
def test_machine_form(row: dict[str, Any]) -> None:
    assert to_mach(stage_to_sexp(parse(row["src"].encode()))) == row["ok"]["mach"]


@pytest.mark.parametrize("row", ACCEPTED, ids=by_name)
def test_pretty_form(row: dict[str, Any]) -> None:
    assert pretty(parse(row["src"].encode())) == row["ok"]["pp"]


@pytest.mark.parametrize("row", ACCEPTED, ids=by_name)
def test_headings(row: dict[str, Any]) -> None:
    ops = parse(row["src"].encode()).ops
    assert [heading(op) for op in ops] == row["ok"]["headings"]
    assert [step_heading("/", op) for op in ops] == row["ok"]["headings_box"]


@pytest.mark.parametrize("row", ACCEPTED, ids=by_name)
def test_what_is_printed_reads_back_as_the_same_stage(row: dict[str, Any]) -> None:
    stage = parse(row["src"].encode())
    assert parse(row["ok"]["mach"].encode()) == stage
    assert parse(row["ok"]["pp"].encode()) == stage


@pytest.mark.parametrize("build", BUILDS, ids=by_name)
def test_headings_are_the_lines_of_obuilders_log(build: dict[str, Any]) -> None:
    stage = parse(build["spec"].encode())
    log = "\n" + build["stdout"]
    missing = [text for text in headings_of(stage) if f"\n{text}\n" not in log]
    # What comes after a step that fails is not reached; the failing one has its heading.
    assert missing in ([], headings_of(stage)[-len(missing) :])
    assert not missing or build["rc"] != 0
    assert len(missing) < len(headings_of(stage)) or not headings_of(stage)


def headings_of(stage: Stage) -> list[str]:
    found = [text for _, child in stage.builds for text in headings_of(child)]
    workdir = "/"
    for op in stage.ops:
        found.append(step_heading(workdir, op))
        if isinstance(op, Workdir):
            relative = workdir + ("" if workdir.endswith("/") else "/") + op.path
            workdir = op.path if op.path.startswith("/") else relative
    return found
