"""What has no equal in a spec is refused with its line and a reason, all of it at once."""

import time

import pytest

from obuilder.spec.from_dockerfile import DockerfileRefused, from_dockerfile

NO_EQUAL = "dockerfile.no-equal"
SYNTAX = "dockerfile.syntax"
TOO_LARGE = "dockerfile.too-large"


def refused(text: str) -> DockerfileRefused:
    with pytest.raises(DockerfileRefused) as caught:
        from_dockerfile(text.encode("utf-8", "surrogateescape"), file="f")
    error = caught.value
    assert error.code == "dockerfile.refused"
    assert all((each.where or "").startswith("f:") for each in error.refusals)
    return error


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("ADD a b", NO_EQUAL, "ADD"),
        ("CMD a", NO_EQUAL, "describes an image"),
        ('ENTRYPOINT ["a"]', NO_EQUAL, "describes an image"),
        ("EXPOSE 80", NO_EQUAL, "describes an image"),
        ("HEALTHCHECK NONE", NO_EQUAL, "describes an image"),
        ("LABEL a=b", NO_EQUAL, "describes an image"),
        ("MAINTAINER me", NO_EQUAL, "describes an image"),
        ("STOPSIGNAL 9", NO_EQUAL, "describes an image"),
        ("VOLUME /a", NO_EQUAL, "VOLUME"),
        ("ONBUILD RUN a", NO_EQUAL, "ONBUILD"),
        ("RUM a", SYNTAX, "unknown instruction"),
        # FROM
        ("FROM --platform=linux/arm64 a", NO_EQUAL, "--platform"),
        ("FROM scratch", NO_EQUAL, "scratch"),
        ("FROM a:$V", NO_EQUAL, "$V has no value"),
        ("FROM $TARGETARCH", NO_EQUAL, "platform"),
        ("FROM", SYNTAX, "FROM takes"),
        ("FROM a b", SYNTAX, "FROM takes"),
        ("FROM a AS 0", SYNTAX, "no name"),
        ('FROM ""', SYNTAX, "without a base"),
        # RUN
        ("RUN", SYNTAX, "without a command"),
        ("RUN []", SYNTAX, "without a command"),
        ('RUN ["\\ud800"]', NO_EQUAL, "no bytes"),
        ("RUN --security=insecure a", NO_EQUAL, "--security"),
        ("RUN --network=bridge a", NO_EQUAL, "--network"),
        ("RUN --device=x a", NO_EQUAL, "--device"),
        ("RUN --mount=type=bind,target=/a a", NO_EQUAL, "type=bind"),
        ("RUN --mount=target=/a a", NO_EQUAL, "type=bind"),
        ("RUN --mount=type=tmpfs,target=/a a", NO_EQUAL, "type=tmpfs"),
        ("RUN --mount=type=ssh a", NO_EQUAL, "type=ssh"),
        ("RUN --mount=type=x a", SYNTAX, "type=x"),
        ("RUN --mount=type=cache a", SYNTAX, "without a target"),
        ("RUN --mount=type=cache,target=/a,from=b a", NO_EQUAL, "from of a cache"),
        ("RUN --mount=type=cache,target=/a,ro a", NO_EQUAL, "read-only"),
        ("RUN --mount=type=cache,target=/a,uid=5 a", NO_EQUAL, "uid 5"),
        ("RUN --mount=type=cache,target=/a,dst=/b a", SYNTAX, "twice"),
        ("RUN --mount=type=cache,target=/a,rw=0 a", NO_EQUAL, "read-only"),
        ("RUN --mount=type=cache,target=/a,ro=no a", SYNTAX, "expected true or false"),
        ("RUN --mount=type=cache,target=/a,sharing=all a", SYNTAX, "sharing=all"),
        ("RUN --mount=type=cache,target=/a,mode=0o755 a", SYNTAX, "mode=0o755"),
        ("RUN --mount=type=cache,target=/a,mode=888 a", SYNTAX, "mode=888"),
        ("RUN --mount=type=cache,target=/a,mode=40000000000 a", SYNTAX, "mode=4"),
        ("RUN --mount=type=cache,target=/a,uid=me a", SYNTAX, "uid=me"),
        ("RUN --mount=type=cache,target=/a,gid=us a", SYNTAX, "gid=us"),
        ("RUN --mount=type=cache,target=/a,gid=4294967296 a", SYNTAX, "gid=4"),
        ("RUN --mount=type=cache,target=/a,gid= a", SYNTAX, "gid="),
        ("RUN --mount=type=cache,target=/a,required=1 a", NO_EQUAL, "required of a cache"),
        ("RUN --mount=type=cache,target=/ a", SYNTAX, "a cache at /"),
        ("RUN --mount=type=cache,target a", SYNTAX, "without a value"),
        ("RUN --mount=type=secret,id=a,required=yes a", SYNTAX, "required=yes"),
        ("RUN --mount=required,type=secret,id=a a", SYNTAX, "before its type"),
        ("RUN --mount=type=secret,id=a,src=b a", SYNTAX, "an id and a source"),
        ("RUN --network=none --network=host a", SYNTAX, "given twice"),
        ('RUN ["a", 1]', SYNTAX, "something else than strings"),
        ("RUN --mount=type=secret,id=a,env=B a", NO_EQUAL, "variable"),
        ("RUN --mount=type=secret a", SYNTAX, "without an id"),
        ("RUN --mount='type=cache,\"a' a", SYNTAX, "--mount"),
        ("RUN <<EOF\n#!/bin/python\nEOF", NO_EQUAL, "#! line"),
        ("RUN <<EOF\na", SYNTAX, "no line EOF ends"),
        # COPY
        ("COPY", SYNTAX, "without a source"),
        ("COPY a", SYNTAX, "without a source"),
        ('COPY ["", "b"]', SYNTAX, "blank"),
        ("COPY a b c", SYNTAX, "no / at its end"),
        ("COPY *.c d/", NO_EQUAL, "wildcard"),
        ("COPY a?[b] d/", NO_EQUAL, "wildcard"),
        ("COPY ../a b", NO_EQUAL, "leaves the source directory"),
        ("COPY <<EOF /a\nx\nEOF", NO_EQUAL, "heredoc"),
        ("COPY --chown=1:1 --chown=2:2 a b", SYNTAX, "given twice"),
        ("COPY https://example.org/a b", SYNTAX, "no path"),
        ('COPY ["a", null]', SYNTAX, "something else than strings"),
        ("COPY --from=nginx:1 a b", NO_EQUAL, "no stage before"),
        ("COPY --from=1 a b", NO_EQUAL, "no stage before"),
        ("COPY --chown=me a b", NO_EQUAL, "is a name"),
        ("COPY --chown=1:us a b", NO_EQUAL, "is a name"),
        ("COPY --chown=:1 a b", SYNTAX, "blank"),
        ("COPY --chown=99999999999 a b", SYNTAX, "more than"),
        ("COPY --chmod=755 a b", NO_EQUAL, "--chmod"),
        ("COPY --link a b", NO_EQUAL, "--link"),
        ("COPY --exclude=x a b", NO_EQUAL, "--exclude"),
        # The rest
        ("USER me", NO_EQUAL, "is a name"),
        ("USER 5", NO_EQUAL, "has no group"),
        ("USER", SYNTAX, "blank"),
        ("SHELL a", SYNTAX, "SHELL takes a list"),
        ("SHELL []", SYNTAX, "SHELL takes a list"),
        ("WORKDIR", SYNTAX, "without a path"),
        ("WORKDIR " + "a" * 5000, SYNTAX, "more than 4096"),
        ("WORKDIR --x /a", SYNTAX, "no flags"),
        ("WORKDIR $HOME", NO_EQUAL, "$HOME is set by no ENV"),
        ("ENV PATH=/a:$PATH", NO_EQUAL, "$PATH is set by no ENV"),
        ("ENV A=${B:-c}", NO_EQUAL, "$B is set by no ENV"),
        ("ENV", SYNTAX, "without a name"),
        ("ENV A", SYNTAX, "no value"),
        ("ENV A=b c", SYNTAX, "has no ="),
        ("ENV =b", SYNTAX, "without a name"),
        ("ENV A='b", SYNTAX, "quote"),
        ('ENV A="b', SYNTAX, "quote"),
        ("ENV A=${", SYNTAX, "bad substitution"),
        ("ENV A=${}", SYNTAX, "bad substitution"),
        ("ARG B\nENV A=${B", SYNTAX, "bad substitution"),
        ("ARG B\nENV A=${B:-c", SYNTAX, "no } ends"),
        ("ARG B\nENV A=${B:?gone}", SYNTAX, "gone"),
        ("ENV A=b\nENV B=${A%b}", NO_EQUAL, "${A%"),
        ("ARG", SYNTAX, "without a name"),
        ("ARG TARGETARCH", NO_EQUAL, "platform"),
        ("ARG A=b\nARG $A=c", NO_EQUAL, "what it is called"),
        ("ENV A=" + "${A:-" * 30 + "}" * 30, NO_EQUAL, "deep"),
    ],
)
def test_it_is_refused_at_its_line(text: str, code: str, part: str) -> None:
    (refusal,) = refused(f"FROM b\n\n{text}").refusals
    assert refusal.code == code
    assert refusal.where in {"f:3", "f:4"}
    assert part in refusal.what
    assert refusal.what.isprintable()


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", 1, "no FROM"),
        ("# a\n", 1, "no FROM"),
        ("# syntax=other/language\nFROM a", 1, "syntax="),
        ("# escape=x\nFROM a", 1, "escape=x"),
        ("# escape=`\n# escape=`\nFROM a", 2, "twice"),
    ],
)
def test_file_is_refused(text: str, line: int, part: str) -> None:
    (refusal,) = refused(text).refusals
    assert refusal.where == f"f:{line}"
    assert part in refusal.what


def test_all_refusals_are_listed_in_order() -> None:
    text = "RUN a\nFROM b\nADD a b\nUSER me\nFROM x\n\nCOPY * c/\nRUN \\\n b <<E\n"
    error = refused(text)
    assert [each.where for each in error.refusals] == ["f:1", "f:3", "f:4", "f:7", "f:8"]
    lines = str(error).splitlines()
    assert lines[0] == "f: 5 things have no equal in a spec"
    assert sum(line.startswith("f:") for line in lines) == 6
    assert "  hint: COPY takes files as they are" in lines


def test_many_refusals_are_cut_short() -> None:
    error = refused("FROM a\n" + "ADD b c\n" * 1000)
    assert len(error.refusals) == 1000
    assert str(error).endswith("\nand 900 more")


def test_stage_name_that_would_mean_another_is_refused() -> None:
    text = "FROM a AS s\nFROM b AS t\nCOPY --from=s x y\nFROM c AS s\nFROM t\n"
    (refusal,) = refused(text).refusals
    assert refusal.where == "f:5"
    (refusal,) = refused("FROM a AS s\nFROM b AS s\nFROM c\nCOPY --from=0 x y\n").refusals
    assert refusal.where == "f:4"


@pytest.mark.parametrize(
    "text",
    [
        "ENV A=xxxxxxxx\n" + "ENV A=$A$A\n" * 60,
        "ENV A=" + "x" * 100_000 + "\n" + "ENV B=$A\n" * 1000,
        "RUN " + "x" * 100_000 + "\n" + "FROM s AS s\n" * 1000,
        "RUN x\n" * 1000 + "FROM s AS s\n" * 1000,
    ],
)
def test_short_text_that_stands_for_a_very_long_spec_is_refused(text: str) -> None:
    assert {each.code for each in refused(f"FROM b AS s\n{text}").refusals} == {TOO_LARGE}


HALF = 1 << 19
LONG = [
    "RUN a \\\n" + " b \\\n" * (HALF // 5),
    "RUN a \\\n" + "#\n" * (HALF // 2),
    "RUN a \\\n" + "\n" * HALF,
    "RUN a\n" * (HALF // 6),
    "#\n" * (HALF // 2),
    "\n" * HALF,
    "ENV " + "A=b " * (HALF // 4),
    "ENV A=" + "\\" * HALF,
    "ENV A=" + "'" * HALF,
    'ENV A="' + "\\" * HALF,
    "ENV A=" + "$" * HALF,
    "ENV A=" + "${" * (HALF // 2),
    "ENV B=c\nENV A=" + "$B" * (HALF // 2),
    "RUN " + "<<E " * (HALF // 8) + "\n" + "E\n" * (HALF // 8),
    "RUN " + "<" * HALF,
    "RUN <<E\n" + "x\n" * (HALF // 2) + "E",
    "RUN <<" + "E" * HALF,
    "RUN " + "[" * HALF,
    'RUN ["' + "a" * HALF,
    "RUN [" + '"a",' * (HALF // 4) + "]",
    "RUN [" + '"a",' * (HALF // 4) + '"a"]',
    "RUN " + "--mount=" * (HALF // 8),
    "RUN " + "--a=b " * (HALF // 6),
    "RUN --" + "\\" * HALF,
    "RUN --'" + "\\" * HALF,
    "RUN --mount=type=cache,target=/a," + "b" * HALF + " c",
    "RUN a" + " " * HALF + "b",
    "RUN a" + "\\ " * (HALF // 2),
    "COPY " + "a " * (HALF // 2) + "/b/",
    "COPY " + "a/ " * (HALF // 3) + "/b/",
    "COPY a " + "../" * (HALF // 3),
    "USER " + "1" * HALF,
    "A" * HALF,
    "FROM a AS b\n" * (HALF // 12),
    "FROM b AS b\n" * (HALF // 12),
    "FROM b\nCOPY --from=0 a b\n" * (HALF // 24),
    "WORKDIR a\n" * (HALF // 10),
    "WORKDIR /a\n" * (HALF // 10),
    "WORKDIR " + "../" * (HALF // 3),
    "# syntax=" + " " * HALF,
    "\0" * HALF,
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: f"{text[:12]!r}")
def test_half_a_mebibyte_takes_a_second_or_so(text: str) -> None:
    start = time.process_time()
    message = ""
    try:
        from_dockerfile(f"FROM b AS b\n{text}".encode())
    except DockerfileRefused as error:
        message = str(error)
    assert len(message) < 100_000
    # Where time went up with the square it was minutes; a busy machine makes this some ten seconds.
    assert time.process_time() - start < 30
