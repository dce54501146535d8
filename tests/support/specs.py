"""Random models and texts of the spec language, for hypothesis."""

from hypothesis import strategies as st

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
)

__all__ = ["SYNTAX", "atoms", "ops_in", "sexps_of", "stages"]

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
