"""What holds for any text that is called a Dockerfile."""

from hypothesis import given, settings
from hypothesis import strategies as st

from obuilder.errors import SpecError
from obuilder.spec import parse, pretty, stage_to_sexp, to_mach
from obuilder.spec.dockerfile import to_dockerfile
from obuilder.spec.from_dockerfile import DockerfileRefused, from_dockerfile

NAMES = (
    *("FROM", "RUN", "COPY", "ENV", "ARG", "WORKDIR", "USER", "SHELL", "ADD", "CMD", "LABEL"),
    *("ONBUILD", "VOLUME", "NONSENSE", "# escape=`\n", "#", ""),
)
PARTS = (
    *("a", "b", "A", "/", "/c/", ".", "./", "..", "1:2", "0", "root", "AS", "as", "$A", "${A}"),
    *("${A:-b}", "${A:+", "}", "$", "'", '"', "\\", "`", "\\\n", "`\n", " ", "\t", "\n", "\r\n"),
    *("=", "A=", "B=$A", "[", "]", '["a"]', '"a", "b"', "<<E", "<<-'E'", "\nE\n", "<", "# x\n"),
    *("--from=a", "--from=0", "--chown=1:2", "--network=none", "--mount=type=cache,target=/c"),
    *("--mount=type=secret,id=s,uid=0", "--mount=", "--", ",", "\x00", "\xff", "caf\xe9", "*"),
)
instructions = st.tuples(
    st.sampled_from(NAMES), st.lists(st.sampled_from(PARTS), max_size=8), st.booleans()
).map(lambda made: " ".join((made[0], (" " if made[2] else "").join(made[1]))))
dockerfiles = st.lists(instructions, max_size=8).map("\n".join)


@settings(deadline=None, max_examples=400)
@given(dockerfiles, st.booleans(), st.booleans())
def test_a_dockerfile_converts_or_is_refused(text: str, begun: bool, ignore: bool) -> None:
    convert_or_refuse(("FROM a AS a\n" * begun + text).encode("latin-1"), ignore=ignore)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode())))
def test_any_bytes_convert_or_are_refused(text: bytes) -> None:
    for begin in (b"", b"FROM a\nRUN ", b"FROM a\nENV ", b"FROM a\nCOPY ", b"ARG "):
        convert_or_refuse(begin + text, ignore=False)


def convert_or_refuse(text: bytes, *, ignore: bool) -> None:
    try:
        converted = from_dockerfile(text, file="f", ignore_metadata=ignore)
    except DockerfileRefused as error:
        assert error.refusals  # noqa: PT017 - either end is right
        for each in error.refusals:
            assert each.code.startswith("dockerfile.")
            assert (each.where or "").startswith("f:")
            assert each.what.isprintable()
        return
    stage = converted.stage
    assert parse(pretty(stage).encode()) == stage
    assert parse(to_mach(stage_to_sexp(stage)).encode()) == stage
    try:
        to_dockerfile(stage, buildkit=True)
    except SpecError as error:
        assert error.code.startswith("dockerfile.")  # noqa: PT017 - either end is right
