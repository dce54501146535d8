"""A spec comes back from its Dockerfile, in all four forms of every vector that allows it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from obuilder.errors import SpecError
from obuilder.spec import Comment, Op, Run, Shell, Stage, parse, pretty
from obuilder.spec.dockerfile import Escape, to_dockerfile
from obuilder.spec.from_dockerfile import from_dockerfile

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "spec.json").read_bytes())
Form = tuple[Escape, bool]
FORMS: list[Form] = [("unix", False), ("unix", True), ("windows", False), ("windows", True)]
PLAIN: set[Form] = {("unix", False), ("windows", False)}
UNIX: set[Form] = {("unix", False), ("unix", True)}
EVERY = set(FORMS)

# Why OBuilder's Dockerfile of a vector does not tell what the spec was, in which forms.
LOST: dict[str, tuple[set[Form], str]] = {
    "all-ops": (EVERY, "Docker refuses (src a b) (dst c), which no builder runs either"),
    "cache-buildkit": (PLAIN, "caches are written for BuildKit only"),
    "copy-nosrc": (EVERY, "Docker refuses a COPY of nothing"),
    "copy-order": (EVERY, "exclude is not written"),
    "copy-spaces": (EVERY, "blanks in paths are not quoted"),
    "env-quote": (EVERY, "$ is not escaped, and a name with a blank is another variable"),
    "long-copy": (EVERY, "exclude is not written"),
    "multiline-run": (EVERY, "a RUN is one line: the newlines of a command are lost"),
    "multiline-trailing": (EVERY, "a RUN is one line: the newlines of a command are lost"),
    "network-2": (EVERY, "networks are not written"),
    "root-win": (UNIX, "a user's name is known to a Windows image only"),
    "run-everything": (
        EVERY,
        "blanks in targets are not quoted; else caches are for BuildKit only",
    ),
    "run-order": (PLAIN, "caches are written for BuildKit only"),
    "secret": (PLAIN, "secrets are written for BuildKit only"),
    "shell-empty": (EVERY, "Docker refuses an empty SHELL"),
    "shell-quote": (EVERY, "quotes in a SHELL are not escaped"),
    "user-neg": (EVERY, "no system has the user -1"),
    "windows-user": (UNIX, "a user's name is known to a Windows image only"),
}


def form_name(form: Form) -> str:
    return form[0] + ("_buildkit" if form[1] else "")


CASES: list[tuple[dict[str, Any], Form]] = [
    (row, form)
    for row in ROWS
    if "ok" in row
    for form in FORMS
    # Where OBuilder writes no Dockerfile there is nothing to read.
    if isinstance(row["ok"][f"dockerfile_{form_name(form)}"], str)
]


def is_lost(case: tuple[dict[str, Any], Form]) -> bool:
    row, form = case
    return form in LOST.get(row["name"], (set(), ""))[0]


KEPT_CASES = [case for case in CASES if not is_lost(case)]
LOST_CASES = [case for case in CASES if is_lost(case)]


def case_id(value: dict[str, Any] | Form) -> str:
    return str(value["name"]) if isinstance(value, dict) else form_name(value)


def normal(stage: Stage, escape: Escape) -> Stage:
    """What a Dockerfile keeps of a spec: docs/dockerfile.md, "There and back"."""
    *before, (_, last) = flat("", stage)
    shell = ("cmd", "/S", "/C") if escape == "windows" else ("/bin/sh", "-c")
    return Stage(
        from_=last.from_,
        ops=normal_ops(last.ops, shell),
        builds=tuple(
            (name, Stage(from_=each.from_, ops=normal_ops(each.ops, shell)))
            for name, each in before
        ),
    )


def flat(name: str, stage: Stage) -> Iterator[tuple[str, Stage]]:
    for child_name, child in stage.builds:
        yield from flat(child_name, child)
    yield name, stage


def normal_ops(ops: tuple[Op, ...], shell: tuple[str, ...]) -> tuple[Op, ...]:
    out: list[Op] = []
    shells = [type(op) for op in ops if isinstance(op, Shell | Run)]
    if shells and shells[0] is Run:
        out.append(Shell(shell))
    for op in ops:
        if isinstance(op, Comment):
            out += map(Comment, op.text.split("\n"))
        elif isinstance(op, Run) and not op.network:
            out.append(replace(op, network=("host",)))
        else:
            out.append(op)
    return tuple(out)


def there_and_back(stage: Stage, form: Form) -> Stage:
    text = to_dockerfile(stage, escape=form[0], buildkit=form[1])
    return from_dockerfile(text.encode("utf-8", "surrogateescape")).stage


@pytest.mark.parametrize(("row", "form"), KEPT_CASES, ids=case_id)
def test_spec_comes_back(row: dict[str, Any], form: Form) -> None:
    stage = parse(row["src"].encode())
    back = there_and_back(stage, form)
    assert back == normal(stage, form[0])
    assert parse(pretty(back).encode()) == back
    assert there_and_back(back, form) == back


@pytest.mark.parametrize(("row", "form"), LOST_CASES, ids=case_id)
def test_spec_that_is_listed_as_lost_does_not_come_back(row: dict[str, Any], form: Form) -> None:
    stage = parse(row["src"].encode())
    try:
        back = there_and_back(stage, form)
    except SpecError:
        return
    assert back != normal(stage, form[0])


def test_every_form_of_every_vector_is_tried() -> None:
    assert set(LOST) <= {row["name"] for row in ROWS if "ok" in row}
    assert len(CASES) == 4 * 39 - 3
    assert (len(KEPT_CASES), len(LOST_CASES)) == (92, 61)
