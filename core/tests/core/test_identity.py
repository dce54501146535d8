"""Ids are OBuilder's: golden pre-images hash to golden ids, and ours are the same text."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.builds import IMAGE_ENV, base_files, stage

from obuilder._core.context import Context
from obuilder._core.identity import base_id, identify, redacted, run_preimage
from obuilder._core.steps import copy_step, run_step
from obuilder.errors import BuildError, ObuilderError
from obuilder.spec import ast
from obuilder.types import ROOT, Id, Secret

pytestmark = pytest.mark.anyio

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "tests/golden/ids.json").read_text()
)
BASE = base_id("busybox")
DEFAULT_SHELL = ("/usr/bin/env", "bash", "-c")


def unescaped(text: str) -> bytes:
    """The bytes of what OCaml's String.escaped printed."""
    named = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b"}
    return re.sub(
        rb"\\(\d{3}|.)",
        lambda m: bytes([int(m[1])]) if m[1].isdigit() else named.get(m[1], m[1]),
        text.encode(),
    )


def golden_ids(case: dict[str, Any]) -> list[str]:
    return [hashlib.sha256(unescaped(text)).hexdigest() for text in case["preimages"]]


class Walk:
    """The steps of a spec in order; a copy from a stage, whose files we lack, is taken as given."""

    def __init__(self, case: dict[str, Any], source: Path) -> None:
        self.secrets = {name: value.encode() for name, value in case["secrets"].items()}
        self.source = source
        self.given = golden_ids(case)
        self.bases: list[str] = []
        self.steps: list[str] = []
        self.redacted: list[str] = []

    async def stage(self, spec: ast.Stage) -> None:
        for _, child in spec.builds:
            await self.stage(child)
        last = base_id(spec.from_)
        self.bases.append(last)
        state = Context(shell=DEFAULT_SHELL, env=IMAGE_ENV)
        for op in spec.ops:
            match op:
                case ast.Run():
                    run = run_step(last, state, op, secrets=self.secrets)
                    last = run.id
                    self.redacted.append(run.record.preimage)
                case ast.Copy(from_=None):
                    copy = await copy_step(last, state, op, source=self.source)
                    last = copy.id
                    self.redacted.append(copy.record.preimage)
                case ast.Copy():
                    last = Id(self.given[len(self.steps)])
                case _:
                    state = state.after(op)
                    continue
            self.steps.append(last)


def test_a_base_is_the_hash_of_its_text() -> None:
    assert BASE == "9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_our_preimages_are_those_of_obuilder(case: dict[str, Any], tmp_path: Path) -> None:
    walk = Walk(case, base_files(tmp_path / "src", case["tree"]))
    refused = ""
    try:
        await walk.stage(stage(case["spec"]))
    except ObuilderError as error:
        refused = f"Build step failed: {error.what}"
    # A failing command ends a build that we walk to its end.
    assert walk.steps[: len(walk.given)] == walk.given
    assert set(case["ids"]) <= {*walk.bases, *walk.steps}
    if case["rc"] == 0:
        assert (refused, len(walk.steps)) == ("", len(walk.given))
        assert walk.steps[-1:] == [case["final"]] or not walk.steps
    elif not walk.given:
        assert refused == case["stderr"]


@pytest.mark.parametrize("name", ["secret", "secret-other", "two-secrets"])
async def test_what_is_stored_differs_only_by_its_secrets(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case["name"] == name)
    walk = Walk(case, tmp_path)
    await walk.stage(stage(case["spec"]))
    assert walk.steps[-1] == case["final"]
    ((stored,), (original,)) = (walk.redacted, case["preimages"])
    hidden = re.sub(
        rb'\(value ?("(\\.|[^"])*"|[^()" ]*)\)', b"(value <secret>)", unescaped(original)
    )
    assert stored.encode() == hidden
    for value in case["secrets"].values():
        assert value.strip() not in stored


def test_a_secret_of_any_bytes_is_hashed_and_hidden() -> None:
    value = bytes(range(256))
    op = ast.Run(shell="x")
    secrets = [Secret(target="/s", value=value)]
    preimage = run_preimage(BASE, Context(shell=("sh",)), op, user=ROOT, secrets=secrets)
    other = run_preimage(BASE, Context(shell=("sh",)), op, user=ROOT, secrets=[])
    assert identify(preimage) != identify(other)
    assert "(mount_secrets(((value <secret>)(target /s))))" in redacted(preimage)


def test_a_field_that_looks_like_secrets_is_not_touched() -> None:
    context = Context(shell=("mount_secrets", "((value a)(target b))"))
    preimage = run_preimage(BASE, context, ast.Run(shell="x"), user=ROOT, secrets=())
    assert hashlib.sha256(redacted(preimage).encode()).hexdigest() == identify(preimage)


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32, 10**30])
@pytest.mark.parametrize("field", ["uid", "gid"])
def test_a_number_that_no_kernel_takes_is_refused(field: str, number: int) -> None:
    user = ast.UnixUser(**{"uid": 1, "gid": 1, field: number})
    with pytest.raises(BuildError, match=f"{field} {number}") as caught:
        Context(shell=(), user=user).unix_user()
    assert caught.value.code == "user.out-of-range"


def test_the_newest_binding_comes_first_and_a_bound_name_moves_there() -> None:
    state = Context(shell=(), env=(("PATH", "/bin"), ("HOME", "/")))
    for name, value in (("A", "1"), ("B", "2"), ("A", "3"), ("PATH", "/x")):
        state = state.after(ast.Env(name, value))
    assert state.env == (("PATH", "/x"), ("A", "3"), ("B", "2"), ("HOME", "/"))


@pytest.mark.parametrize(
    ("workdir", "path", "joined"),
    [
        ("/", "x", "/x"),
        ("/tmp/", "y", "/tmp/y"),
        ("/a", "/b", "/b"),
        ("/a", ".", "/a/."),
        ("/", ".", "/."),
        ("/opt", "./", "/opt/./"),
        ("/a", "../b", "/a/../b"),
    ],
)
def test_a_path_is_joined_by_one_slash_and_not_normalised(
    workdir: str, path: str, joined: str
) -> None:
    assert Context(shell=(), workdir=workdir).join(path) == joined
