"""Specs go to sexpdata's values and come back as they were."""

import pytest
import sexpdata
from hypothesis import given, settings
from support.specs import stages

from obuilder.errors import SpecError
from obuilder.spec import Run, Spec, Stage, copy, run
from obuilder.spec.interop import from_sexpdata, to_sexpdata

S = sexpdata.Symbol


def test_symbols_and_strings_are_atoms() -> None:
    value = [[S("from"), S("b")], (S("run"), [S("shell"), "make all"])]
    assert from_sexpdata(value) == Stage(from_="b", ops=(Run(shell="make all"),))


def test_a_stage_becomes_lists_of_symbols_and_strings() -> None:
    spec = Spec(from_="b", ops=[run("make all"), copy("1.10", "t/")])
    assert to_sexpdata(spec) == [
        [S("from"), S("b")],
        [S("run"), [S("shell"), "make all"]],
        [S("copy"), [S("src"), "1.10"], [S("dst"), S("t/")]],
    ]


@settings(deadline=None)
@given(stages())
def test_any_stage_survives_both_ways(stage: Stage) -> None:
    assert from_sexpdata(to_sexpdata(stage)) == stage


@pytest.mark.parametrize("text", ["1.10", "12", "t", "'x", "[a]"])
def test_a_value_that_lost_its_text_is_refused(text: str) -> None:
    value = sexpdata.loads(f"((from b) (comment {text}))")
    with pytest.raises(SpecError) as caught:
        from_sexpdata(value)
    assert caught.value.code == "spec.type"


def test_a_mistake_is_told_as_parse_does() -> None:
    with pytest.raises(SpecError) as caught:
        from_sexpdata([[S("from"), S("b")], [S("rnu"), "x"]])
    assert caught.value.code == "spec.unknown-op"
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SpecError) as caught:
        from_sexpdata(deep)
    assert caught.value.code == "spec.too-deep"
