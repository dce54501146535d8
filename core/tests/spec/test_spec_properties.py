"""What holds for any model and any bytes."""

from collections.abc import Callable

import sexpdata
from hypothesis import given, settings
from hypothesis import strategies as st

from obuilder.errors import SpecError
from obuilder.spec import (
    Cache,
    Comment,
    Copy,
    Env,
    Op,
    Run,
    SecretMount,
    Sexp,
    Shell,
    Stage,
    UnixUser,
    User,
    WindowsUser,
    Workdir,
    atom_text,
    heading,
    op_to_sexp,
    parse,
    parse_sexps,
    pretty,
    stage_to_sexp,
    step_heading,
    to_hum,
    to_mach,
)

SYNTAX = b'()""\\\\##||;; \n\t\r\x0cabnx0129\x00\xc3\xa9\xff'
WORDS = (
    *("build", "from", "comment", "workdir", "shell", "env", "user", "uid", "gid", "name", "run"),
    *("cache", "network", "secrets", "target", "buildkit_options", "copy", "src", "dst"),
    *("exclude", "context", "host", "a", "b", "1", "0x1f", "-1"),
)

atoms = st.one_of(
    st.sampled_from(WORDS),
    st.lists(st.sampled_from(SYNTAX), max_size=30).map(atom_text),
    st.binary(max_size=30).map(atom_text),
    st.text(alphabet="ab \n", min_size=20, max_size=120),
)
some = st.lists(atoms, max_size=4).map(tuple)
options = st.lists(st.tuples(atoms, atoms), max_size=3).map(tuple)
integers = st.integers(-(2**62), 2**62 - 1)
users = st.one_of(
    st.builds(UnixUser, uid=integers, gid=integers), st.builds(WindowsUser, name=atoms)
)
caches = st.builds(Cache, id=atoms, target=atoms, buildkit_options=options)
secrets = st.builds(SecretMount, id=atoms, target=atoms, buildkit_options=options)


def sexps_of(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[Sexp]:
    def lists(inner: st.SearchStrategy[Sexp]) -> st.SearchStrategy[Sexp]:
        return st.lists(inner, max_size=6).map(tuple)

    return st.recursive(leaves, lists, max_leaves=40)


def ops_in(scope: tuple[str, ...]) -> st.SearchStrategy[Op]:
    return st.one_of(
        st.builds(Comment, atoms),
        st.builds(Workdir, atoms),
        st.builds(Shell, some),
        st.builds(Env, atoms, atoms),
        st.builds(User, users),
        st.builds(
            Run,
            shell=atoms,
            cache=st.lists(caches, max_size=3).map(tuple),
            network=some,
            secrets=st.lists(secrets, max_size=3).map(tuple),
        ),
        st.builds(Copy, src=some, dst=atoms, exclude=some, from_=st.sampled_from((None, *scope))),
    )


@st.composite
def stages(draw: st.DrawFn, scope: tuple[str, ...] = (), depth: int = 0) -> Stage:
    builds: list[tuple[str, Stage]] = []
    for name in draw(st.lists(atoms, max_size=2 if depth < 3 else 0)):
        builds.append((name, draw(stages(scope, depth + 1))))
        scope = (*scope, name)
    ops = tuple(draw(st.lists(ops_in(scope), max_size=4)))
    return Stage(from_=draw(atoms), ops=ops, builds=tuple(builds))


@settings(deadline=None)
@given(stages())
def test_printing_then_parsing_is_the_identity(stage: Stage) -> None:
    assert parse(to_mach(stage_to_sexp(stage)).encode()) == stage
    assert parse(to_hum(stage_to_sexp(stage)).encode()) == stage
    assert parse(pretty(stage).encode()) == stage


@settings(deadline=None)
@given(ops_in(()), st.integers(0, 100))
def test_a_heading_reads_back_as_its_op(op: Op, indent: int) -> None:
    expected = [op_to_sexp(op)]
    for text in (heading(op, indent=indent), step_heading("/" * indent, op)[indent + 2 :]):
        assert [node.sexp() for node in parse_sexps(text.encode())] == expected


@settings(deadline=None)
@given(sexps_of(atoms))
def test_both_forms_read_back_and_are_ascii(sexp: Sexp) -> None:
    for text in (to_mach(sexp), to_hum(sexp)):
        assert text.isascii()
        assert [node.sexp() for node in parse_sexps(text.encode())] == [sexp]


@settings(deadline=None)
@given(st.one_of(st.binary(), st.lists(st.sampled_from(SYNTAX), max_size=200).map(bytes)))
def test_any_bytes_are_read_or_refused_with_our_error(text: bytes) -> None:
    for read in (parse_sexps, parse):
        read_or_refuse(read, text)


@settings(deadline=None)
@given(sexps_of(atoms))
def test_any_sexp_is_a_stage_or_refused_with_our_error(sexp: Sexp) -> None:
    for text in (sexp, (("from", "a"), sexp), (("from", "a"), ("run", ("shell", "x"), sexp))):
        read_or_refuse(parse, to_mach(text).encode())


def read_or_refuse(read: Callable[..., object], text: bytes) -> None:
    try:
        read(text, file="f")
    except SpecError as error:
        assert error.code.startswith("spec.")  # noqa: PT017 - either end is right
        assert (error.where or "").startswith("f:")  # noqa: PT017 - as above
        assert error.what.isprintable()  # noqa: PT017 - as above


@settings(deadline=None)
@given(sexps_of(st.text(alphabet='abc ();"\\\n\t', min_size=1)).map(lambda sexp: (sexp,)))
def test_another_reader_reads_the_plain_part_of_the_machine_form_the_same(sexp: Sexp) -> None:
    assert bare(sexpdata.loads(to_mach(sexp), nil=None, true=None)) == sexp


def bare(value: object) -> Sexp:
    return tuple(map(bare, value)) if isinstance(value, list) else str(value)
