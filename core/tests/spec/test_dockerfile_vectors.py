"""Dockerfiles are OBuilder's, byte for byte, in all four forms of every golden vector."""

import json
from pathlib import Path
from typing import Any

import pytest

from obuilder.errors import SpecError
from obuilder.spec import Comment, Copy, Env, Op, Run, Shell, Stage, WindowsUser, Workdir, parse
from obuilder.spec.ast import Cache, User
from obuilder.spec.dockerfile import Escape, to_dockerfile

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "spec.json").read_bytes())
ACCEPTED = [row for row in ROWS if "ok" in row]
FORMS: list[tuple[Escape, bool]] = [
    ("unix", False),
    ("unix", True),
    ("windows", False),
    ("windows", True),
]
# OBuilder's comment breaks out of its line; here each line is commented.
COMMENTED = {"comment": ("# multi\nline\n", "# multi\n# line\n")}


def form_name(form: tuple[Escape, bool]) -> str:
    return form[0] + ("_buildkit" if form[1] else "")


def by_name(row: dict[str, Any]) -> str:
    return str(row["name"])


@pytest.mark.parametrize("form", FORMS, ids=form_name)
@pytest.mark.parametrize("row", ACCEPTED, ids=by_name)
def test_dockerfile_is_obuilders(row: dict[str, Any], form: tuple[Escape, bool]) -> None:
    stage = parse(row["src"].encode())
    escape, buildkit = form
    expected = row["ok"][f"dockerfile_{form_name(form)}"]
    if isinstance(expected, dict):  # a failed assertion in OBuilder
        with pytest.raises(SpecError) as caught:
            to_dockerfile(stage, buildkit=buildkit, escape=escape)
        assert caught.value.code == "dockerfile.windows-user"
        assert caught.value.hint
        return
    if row["name"] in COMMENTED:
        assert COMMENTED[row["name"]][0] in expected
        expected = expected.replace(*COMMENTED[row["name"]])
    assert to_dockerfile(stage, buildkit=buildkit, escape=escape) == expected


def test_every_row_has_all_four_forms() -> None:
    assert len(ACCEPTED) == 39
    assert {
        tuple(sorted(key for key in row["ok"] if key.startswith("dockerfile_"))) for row in ACCEPTED
    } == {tuple(sorted(f"dockerfile_{form_name(form)}" for form in FORMS))}


@pytest.mark.parametrize(
    "op",
    [
        Workdir("/a\nRUN b"),
        Shell(("a", "b\nc")),
        Env("A\nB", "c"),
        Env("A", "b\nc"),
        User(WindowsUser(name="a\nb")),
        Copy(src=("a\nb",), dst="c"),
        Copy(src=("a",), dst="b\nc"),
        Run(shell="x", cache=(Cache(id="a\nb", target="/c"),)),
    ],
)
def test_newline_that_would_begin_an_instruction_is_refused(op: Op) -> None:
    with pytest.raises(SpecError) as caught:
        to_dockerfile(Stage(from_="b", ops=(op,)), buildkit=True)
    assert caught.value.code == "dockerfile.newline"


def test_newline_in_a_base_or_a_name_is_refused() -> None:
    named = Stage(from_="b", builds=(("a\nb", Stage(from_="c")),))
    for stage in (Stage(from_="a\nb"), named):
        with pytest.raises(SpecError) as caught:
            to_dockerfile(stage)
        assert caught.value.code == "dockerfile.newline"


def test_empty_lines_of_a_comment_are_commented() -> None:
    stage = Stage(from_="b", ops=(Comment("a\n\nRUN b\n"),))
    assert to_dockerfile(stage) == "FROM b\n# a\n# \n# RUN b\n# \n"


def test_owner_comes_before_the_stage() -> None:
    copy = "(copy (from (build s)) (src c) (dst d))"
    text = f"((build s ((from a))) (from b) (user (uid 1) (gid 2)) {copy})"
    assert "COPY --chown=1:2 --from=s c d\n" in to_dockerfile(parse(text.encode()))


def test_user_is_the_default_again_in_each_stage() -> None:
    text = "((build s ((from a) (user (uid 1) (gid 2)))) (from b) (copy (src c) (dst d)))"
    assert to_dockerfile(parse(text.encode())).endswith("FROM b\nCOPY c d\n")


def test_name_that_would_mean_another_stage_is_refused() -> None:
    inner = "(build other ((build a ((from y))) (from z)))"
    text = f"((build a ((from x))) {inner} (from q) (copy (from (build a)) (src s) (dst d)))"
    with pytest.raises(SpecError) as caught:
        to_dockerfile(parse(text.encode()))
    assert caught.value.code == "dockerfile.stage-name"


def test_name_that_differs_in_case_only_is_the_same_to_docker() -> None:
    inner = "(build other ((build A ((from y))) (from z)))"
    text = f"((build a ((from x))) {inner} (from q) (copy (from (build a)) (src s) (dst d)))"
    with pytest.raises(SpecError) as caught:
        to_dockerfile(parse(text.encode()))
    assert caught.value.code == "dockerfile.stage-name"
    alone = b"((build A ((from x))) (from q) (copy (from (build A)) (src s) (dst d)))"
    assert to_dockerfile(parse(alone)).endswith("COPY --from=A s d\n")


@pytest.mark.parametrize(
    "text",
    [
        "((build debian ((from alpine) (run (shell x)))) (from debian))",
        "((build Debian ((from alpine))) (build b ((from debian))) (from c))",
        "((build b ((build debian ((from alpine))) (from c))) (from DEBIAN))",
    ],
)
def test_base_with_the_name_of_a_stage_above_it_is_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        to_dockerfile(parse(text.encode()))
    assert caught.value.code == "dockerfile.stage-name"
    assert caught.value.hint


def test_base_may_have_the_name_of_its_own_stage_or_of_a_later_one() -> None:
    text = b"((build a ((from b))) (build b ((from b))) (from c))"
    assert to_dockerfile(parse(text)) == "FROM b as a\n\nFROM b as b\n\nFROM c\n"


def test_stages_too_deep_are_refused() -> None:
    stage = Stage(from_="b")
    for _ in range(200):
        stage = Stage(from_="b", builds=(("a", stage),))
    with pytest.raises(SpecError) as caught:
        to_dockerfile(stage)
    assert caught.value.code == "spec.too-deep"
