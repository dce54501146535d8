"""The grammar of stages: what is allowed where, scope, and errors that help."""

import pytest

from obuilder.errors import SpecError
from obuilder.spec import (
    MAX_STAGE_DEPTH,
    Cache,
    Copy,
    Env,
    Op,
    Run,
    SecretMount,
    Stage,
    UnixUser,
    User,
    heading,
    nearest,
    parse,
    stage_to_sexp,
    step_heading,
    to_mach,
)


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(text.encode(), file="f")
    return caught.value


def only_op(text: str) -> Op:
    (op,) = parse(f"((from b) {text})".encode()).ops
    return op


def test_run_with_everything() -> None:
    text = """(run (shell "make") (secrets (s (buildkit_options ()) (target /s)))
                   (network host) (cache (c (target /c) (buildkit_options ((a b) (c d))))))"""
    assert only_op(text) == Run(
        shell="make",
        cache=(Cache(id="c", target="/c", buildkit_options=(("a", "b"), ("c", "d"))),),
        network=("host",),
        secrets=(SecretMount(id="s", target="/s"),),
    )


def test_copy_from_a_stage_called_context_is_not_from_the_context() -> None:
    stage = parse(
        b"((build context ((from a))) (from b) (copy (from (build context)) (src x) (dst y)))"
    )
    assert stage.ops == (Copy(src=("x",), dst="y", from_="context"),)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0x10", -16),
        ("+7", 7),
        ("0b101", 5),
        ("0O17", 15),
        ("0u12", 12),
        ("1_000_", 1000),
        ("007", 7),
        ("4611686018427387903", 2**62 - 1),
        ("-4611686018427387904", -(2**62)),
        ("0x7fffffffffffffff", -1),
        ("0x4000000000000000", -(2**62)),
        ("0" * 10_000 + "1", 1),
        ("0b" + "1" * 62, 2**62 - 1),
        ("0o" + "7" * 21, -1),
    ],
)
def test_user_ids_are_ocaml_integers(text: str, value: int) -> None:
    assert only_op(f"(user (uid {text}) (gid 0))") == User(UnixUser(uid=value, gid=0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "_1",
        "0x",
        "0x_1",
        "1.0",
        "1e3",
        "0b2",
        "08a",
        "+ 1",
        "--1",
        "4611686018427387904",
        "-4611686018427387905",
        "0x8000000000000000",
        "9" * 10_000,
        "\u0661",
    ],
)
def test_other_user_ids_are_refused(text: str) -> None:
    error = refusal(f'((from b) (user (uid "{text}") (gid 0)))')
    assert (error.where, error.code) == ("f:1:22", "spec.invalid")


@pytest.mark.parametrize(
    ("text", "mistake", "hint"),
    [
        ("((from b) (rum (shell x)))", "f:1:12 spec.unknown-op", 'did you mean "run"?'),
        ("((from b) (COPY (src a)))", "f:1:12 spec.unknown-op", 'did you mean "copy"?'),
        (
            "((from b)\n (run (cahe) (shell x)))",
            "f:2:8 spec.unknown-field",
            'did you mean "cache"?',
        ),
        ("((from b) (run))", "f:1:11 spec.missing-field", "(run (shell"),
        ("((from b) (copy (src a) (dst b) (dst c)))", "f:1:33 spec.duplicate-field", None),
        ("((from b) (run (shell echo hi)))", "f:1:16 spec.invalid", "(run (shell"),
        ('((from b) (run "echo hi"))', "f:1:16 spec.invalid", "(run (shell"),
        ("((from b) (env A two words))", "f:1:11 spec.invalid", "quotes"),
        ("((from b) (user (gid 1) (uid 2)))", "f:1:11 spec.invalid", "uid comes before gid"),
        ("((run (shell x)) (from b))", "f:1:2 spec.invalid", "after (from BASE)"),
        ("((from b) (from c))", "f:1:11 spec.unknown-op", "one (from BASE)"),
        ("", "f:1:1 spec.invalid", None),
        ("((from b))) ", "f:1:11 spec.syntax", None),
        ("((from b)) x", "f:1:12 spec.invalid", "too early"),
    ],
)
def test_mistakes_are_named_with_place_and_remedy(
    text: str, mistake: str, hint: str | None
) -> None:
    error = refusal(text)
    assert f"{error.where} {error.code}" == mistake
    assert (error.hint is None) if hint is None else (hint in (error.hint or ""))


@pytest.mark.parametrize(
    "text",
    [
        "((from b) (Workdir /x))",
        "((from (b)))",
        "((build (n) ((from b))) (from b))",
        "((build n) (from b))",
        "((build n b) (from b))",
        "(() (from b))",
        "((from b) (run shell x))",
        "((from b) (run (shell (x))))",
        "((from b) (run (network (a)) (shell x)))",
        "((from b) (run (cache c) (shell x)))",
        "((from b) (run (cache ((c) (target /x))) (shell x)))",
        "((from b) (run (cache (c (id d) (target /x))) (shell x)))",
        "((from b) (run (cache (c (target /x /y))) (shell x)))",
        "((from b) (run (cache (c (target /x) (buildkit_options))) (shell x)))",
        "((from b) (run (cache (c (target /x) (buildkit_options a))) (shell x)))",
        "((from b) (run (cache (c (target /x) (buildkit_options (a)))) (shell x)))",
        "((from b) (run (cache (c (target /x) (buildkit_options ((a))))) (shell x)))",
        "((from b) (run (cache (c (target /x) (buildkit_options ((a (b)))))) (shell x)))",
        "((from b) (copy (from) (src a) (dst b)))",
        "((from b) (copy (from other) (src a) (dst b)))",
        "((from b) (copy (from (build)) (src a) (dst b)))",
        "((from b) (copy (src (a)) (dst b)))",
        "((from b) (user))",
        "((from b) (user (name a b)))",
        "((from b) (user (name (a))))",
        "((from b) (user (uid 1) (gid 2) (name x)))",
        "((from b) ((run (shell x))))",
    ],
)
def test_other_shapes_are_refused_with_what_was_expected(text: str) -> None:
    error = refusal(text)
    assert error.where is not None
    assert "expected" in error.what


def test_earlier_siblings_and_those_of_ancestors_are_in_scope() -> None:
    text = """((build a ((from x)))
               (build b ((build c ((from x) (copy (from (build a)) (src s) (dst d))))
                         (from x) (copy (from (build c)) (src s) (dst d))))
               (from x) (copy (from (build b)) (src s) (dst d)))"""
    assert [name for name, _ in parse(text.encode()).builds] == ["a", "b"]


@pytest.mark.parametrize(
    ("builds", "name", "expected"),
    [
        ("(build a ((from x) COPY)) (build b ((from x)))", "b", "none is"),
        ("(build a ((from x) COPY))", "a", "none is"),
        ("(build a ((build b ((from x))) (from x))) (build c ((from x) COPY))", "b", "one of: a"),
    ],
    ids=["later sibling", "itself", "child of a sibling"],
)
def test_other_stages_are_out_of_scope(builds: str, name: str, expected: str) -> None:
    copy = f"(copy (from (build {name})) (src s) (dst d))"
    error = refusal(f"({builds.replace('COPY', copy)} (from x))")
    assert error.code == "spec.unknown-stage"
    assert expected in error.what


def test_a_stage_that_was_shadowed_inside_is_in_scope_again_outside() -> None:
    text = """((build a ((from x))) (build b ((build a ((from y))) (from x)))
               (from x) (copy (from (build a)) (src s) (dst d)))"""
    assert len(parse(text.encode()).builds) == 2


def test_unknown_stage_gets_the_nearest_name() -> None:
    error = refusal(
        "((build tools ((from x))) (from x)\n (copy (from (build tool)) (src s) (dst d)))"
    )
    assert (error.where, error.hint) == ("f:2:21", 'did you mean "tools"?')


def test_what_was_found_is_short_and_printable_in_errors() -> None:
    error = refusal('((from b) ("\x1b[31m\n' + "x" * 5000 + '" y))')
    assert len(error.what) < 400
    assert error.what.isprintable()


def test_stages_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    assert parse(nested(MAX_STAGE_DEPTH)).builds
    with pytest.raises(SpecError) as caught:
        parse(nested(MAX_STAGE_DEPTH + 1))
    assert caught.value.code == "spec.too-deep"
    stage = Stage(from_="x")
    for _ in range(MAX_STAGE_DEPTH + 1):
        stage = Stage(from_="x", builds=(("a", stage),))
    with pytest.raises(SpecError) as caught:
        stage_to_sexp(stage)
    assert caught.value.code == "spec.too-deep"


def nested(depth: int) -> bytes:
    return b"((build a " * depth + b"((from x))" + b") (from x))" * depth


def test_text_that_stands_for_no_bytes_is_our_error() -> None:
    with pytest.raises(SpecError) as caught:
        to_mach(stage_to_sexp(Stage(from_="x", ops=(Env("A", "\ud800"),))))
    assert caught.value.code == "spec.text"


def test_copy_goes_to_several_lines_exactly_when_78_columns_do_not_hold_it() -> None:
    fits = Copy(src=("a" * 57,), dst="b")
    assert len(heading(fits)) == 78
    assert "\n" not in heading(fits)
    assert "\n" in heading(Copy(src=("a" * 58,), dst="b"))
    assert heading(fits, indent=2) == f"(copy (src {'a' * 57})\n        (dst b))"


def test_fields_go_back_to_the_margin_where_a_long_workdir_leaves_no_room() -> None:
    assert step_heading("/" + "d" * 70, Run(shell="x")) == f"/{'d' * 70}: (run \n  (shell x))"


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [
        ("brtfs", ("rsync", "btrfs"), "btrfs"),
        ("RUN", ("run",), "run"),
        ("WORKDRI", ("run", "workdir"), "workdir"),
        ("workdri", ("RUN", "WorkDir"), "WorkDir"),
        ("zebra", ("run", "copy"), None),
        ("x" * 100_000, ("x" * 99_999,), None),
        ("a", (), None),
    ],
)
def test_nearest(word: str, choices: tuple[str, ...], expected: str | None) -> None:
    assert nearest(word, choices) == expected
