"""Specs written in Python are held to what `parse` holds texts to."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from support.specs import stages

from obuilder.errors import SpecError
from obuilder.spec import (
    MAX_STAGE_DEPTH,
    Copy,
    Run,
    Spec,
    Stage,
    UnixUser,
    User,
    cache,
    comment,
    copy,
    env,
    parse,
    run,
    secret,
    shell,
    stage,
    stage_to_sexp,
    to_mach,
    user,
    windows_user,
    workdir,
)

WHOLE = Spec(
    from_="debian:bookworm",
    builds={"tools": stage("debian:bookworm", [run("make tools")])},
    ops=[
        comment("all of it"),
        shell("/bin/sh", "-ec"),
        env("A", "b c"),
        workdir("/src"),
        user(1000, 1001),
        windows_user("me"),
        copy(".", "./", exclude=[".git"]),
        copy(["a", "b"], "/usr/bin/", from_="tools"),
        run(
            "make",
            cache=[cache("c", "/c", buildkit_options={"sharing": "locked"})],
            network=["host"],
            secrets=[secret("token", "/run/secrets/token")],
        ),
    ],
)

TEXT = """((build tools
        ((from debian:bookworm)
         (run (shell "make tools"))))
 (from debian:bookworm)
 (comment "all of it")
 (shell /bin/sh -ec)
 (env A "b c")
 (workdir /src)
 (user (uid 1000) (gid 1001))
 (user (name me))
 (copy (src .) (dst ./) (exclude .git))
 (copy (from (build tools)) (src a b) (dst /usr/bin/))
 (run (cache (c (target /c) (buildkit_options ((sharing locked)))))
      (network host)
      (secrets (token (target /run/secrets/token)))
      (shell make))
)"""


def test_every_word_of_the_language_can_be_written() -> None:
    assert str(WHOLE) == TEXT


def test_a_spec_equals_the_stage_that_its_text_reads_as() -> None:
    read = parse(TEXT.encode())
    assert read == WHOLE
    assert read == WHOLE
    assert hash(WHOLE) == hash(read)
    assert str(read) == TEXT
    assert Spec(from_="a") != parse(b"((from b))")
    assert Spec(from_="a") != "((from a))"


@settings(deadline=None)
@given(stages())
def test_what_parses_can_be_written(model: Stage) -> None:
    assert Spec(from_=model.from_, ops=model.ops, builds=model.builds) == model


BAD: list[tuple[Callable[[], object], str, str]] = [
    (lambda: run(3), "spec.type", "run: shell"),  # type: ignore[arg-type]  # the mistake tested
    (lambda: run("x", network="host"), "spec.type", "network"),
    (lambda: run("x", cache=["c"]), "spec.type", "run: cache[0]"),  # type: ignore[list-item]  # as above
    (lambda: run("x", secrets=[cache("a", "/b")]), "spec.type", "run: secrets[0]"),  # type: ignore[list-item]  # as above
    (lambda: run("\ud800"), "spec.text", ""),
    (lambda: copy([b"x"], "y"), "spec.type", "src[0]"),  # type: ignore[list-item]  # as above
    (lambda: copy("x", "y", exclude="z"), "spec.type", "exclude"),
    (lambda: env("a", 1), "spec.type", "value"),  # type: ignore[arg-type]  # as above
    (lambda: user(True, 0), "spec.type", "user: uid"),
    (lambda: user(10**6000, 0), "spec.invalid", "user: uid"),
    (lambda: env("a", b"\xe2\x82\xac".decode("ascii", "surrogateescape")), "spec.text", "value"),
    (lambda: user(0, 2**62), "spec.invalid", "user: gid"),
    (lambda: cache("a", "/b", buildkit_options=["x"]), "spec.type", "buildkit_options[0]"),  # type: ignore[list-item]  # as above
    (lambda: stage("a", ["make"]), "spec.type", "ops[0]"),  # type: ignore[list-item]  # as above
    (lambda: stage("a", [Run(shell="x", network=["host"])]), "spec.type", "ops[0]: network"),  # type: ignore[arg-type]  # as above
    (lambda: stage("a", builds={"b": "c"}), "spec.type", "builds['b']"),  # type: ignore[arg-type]  # as above
    (lambda: Spec(from_=None), "spec.type", "from_"),  # type: ignore[arg-type]  # as above
    (lambda: Spec(from_="a", ops=[copy("x", "y", from_="b")]), "spec.unknown-stage", 'copy to "y"'),
]


@pytest.mark.parametrize(("make", "code", "where"), BAD)
def test_a_mistake_is_told_with_its_place(
    make: Callable[[], object], code: str, where: str
) -> None:
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.code == code
    assert (caught.value.where or "") == where


def test_a_stage_sees_its_elder_siblings_and_those_of_its_ancestors() -> None:
    inner = stage("a", [copy("x", "y", from_="first")])
    Spec(from_="a", builds=[("first", stage("a")), ("second", stage("a", builds={"in": inner}))])
    with pytest.raises(SpecError) as caught:
        Spec(from_="a", builds=[("second", inner), ("first", stage("a"))])
    assert caught.value.code == "spec.unknown-stage"
    with pytest.raises(SpecError) as caught:
        Spec(from_="a", builds={"outer": stage("a", builds={"in": stage("a")})}, ops=[COPY_IN])
    assert caught.value.code == "spec.unknown-stage"
    assert caught.value.hint is None


COPY_IN = Copy(src=("x",), dst="y", from_="in")


def test_a_stage_too_deep_is_refused_as_parse_does() -> None:
    model = Stage(from_="a")
    for _ in range(MAX_STAGE_DEPTH):
        model = Stage(from_="a", builds=(("b", model),))
    Spec(from_="a", builds=model.builds)
    parse(to_mach(stage_to_sexp(model)).encode())
    with pytest.raises(SpecError) as caught:
        Spec(from_="a", builds={"b": model})
    assert caught.value.code == "spec.too-deep"


def test_numbers_are_those_of_63_bits() -> None:
    assert user(-(2**62), 2**62 - 1) == User(UnixUser(uid=-(2**62), gid=2**62 - 1))
