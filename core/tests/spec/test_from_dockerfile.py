"""What a Dockerfile converts to: instruction by instruction, the meaning kept."""

import pytest

from obuilder.spec import Stage, parse, pretty
from obuilder.spec.from_dockerfile import from_dockerfile

SH = "(shell /bin/sh -c)"


def convert(text: str) -> Stage:
    stage = from_dockerfile(text.encode("utf-8", "surrogateescape"), file="f").stage
    assert parse(pretty(stage).encode()) == stage
    return stage


def run(command: str, fields: str = "(network host)") -> str:
    return f"(run {fields} (shell {command}))"


def spec(ops: str) -> Stage:
    return parse(f"((from b) {ops})".encode())


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("", ""),
        # RUN
        ("RUN a b", SH + run('"a b"')),
        ("run a", SH + run("a")),
        ("RUN a \\\n  b", SH + run('"a   b"')),
        ("RUN a \\\n\n  \n b\nRUN c", SH + run('"a  b"') + run("c")),
        ("RUN a \\\n # why\n b", f"{SH} (comment why)" + run('"a  b"')),
        ("RUN a \\  \n b", SH + run('"a  b"')),
        ("RUN a \\\\\nRUN b", SH + run(r'"a \\\\"') + run("b")),
        ("RUN a\r\nRUN \\\r\n b\r\n", SH + run("a") + run("b")),
        ("RUN echo $A '$B'", SH + run("\"echo $A '$B'\"")),
        ("RUN [ -f x ] && y", SH + run('"[ -f x ] && y"')),
        ("RUN caf\udce9", SH + run('"caf\\233"')),
        ("RUN --network=none a", SH + run("a", "")),
        ("RUN --network=default a", SH + run("a")),
        ("RUN --network=host a", SH + run("a")),
        ("RUN --security=sandbox a", SH + run("a")),
        ('RUN ["a", "b c"]', "(shell a)" + run('"b c"')),
        ('RUN ["a"]', "(shell)" + run("a")),
        ('RUN ["a", "b"]\nRUN c', "(shell a)" + run("b") + SH + run("c")),
        ('RUN c\nRUN ["a", "b"]\nRUN d', SH + run("c") + "(shell a)" + run("b") + SH + run("d")),
        (r'RUN ["a", "\u00e9\n"]', "(shell a)" + run('"\\195\\169\\n"')),
        # RUN --mount
        (
            "RUN --mount=type=cache,target=/c a",
            SH + run("a", "(cache (/c (target /c))) (network host)"),
        ),
        (
            "RUN --mount=type=cache,id=i,dst=/c,uid=0,sharing=locked,mode=0755 a",
            SH
            + run(
                "a",
                "(cache (i (target /c) (buildkit_options ((sharing locked) (mode 0755)))))"
                "(network host)",
            ),
        ),
        (
            "WORKDIR /w\nENV I=j\nRUN --mount=type=cache,id=$I,target=c a",
            f"{SH} (workdir /w) (env I j)" + run("a", "(cache (j (target /w/c))) (network host)"),
        ),
        (
            "RUN --mount=type=secret,id=s a",
            SH + run("a", "(secrets (s (target /run/secrets/s))) (network host)"),
        ),
        (
            "RUN --mount=type=secret,target=/k/s,required=true a",
            SH
            + run(
                "a",
                "(secrets (s (target /k/s) (buildkit_options ((required true))))) (network host)",
            ),
        ),
        (
            "RUN --mount=type=secret,id=d/s --mount=type=secret,src=e/f,dst=/f/ a",
            SH
            + run("a", "(secrets (d/s (target /run/secrets/s)) (e/f (target /f/))) (network host)"),
        ),
        (
            "RUN --mount=type=secret,required,dst=/e/f/ a",
            SH
            + run(
                "a",
                "(secrets (f (target /e/f/) (buildkit_options ((required true))))) (network host)",
            ),
        ),
        (
            "RUN --mount=type=cache,target=/c/d/ --mount=type=CACHE,target=//c/./d,rw,ro=F a",
            SH
            + run(
                "a",
                "(cache (/c/d (target /c/d/)) (/c/d (target //c/./d))) (network host)",
            ),
        ),
        (
            "WORKDIR /w\nRUN --mount=type=cache,target=./c/../../d,mode=01777,gid=4294967295 a",
            f"{SH} (workdir /w)"
            + run(
                "a",
                "(cache (../d (target /d) (buildkit_options ((mode 01777) (gid 4294967295)))))"
                "(network host)",
            ),
        ),
        (
            "USER 5:6\nRUN --mount=type=secret,id=s,target=/s,uid=05 a",
            f"{SH} (user (uid 5) (gid 6))" + run("a", "(secrets (s (target /s))) (network host)"),
        ),
        (
            "USER 5:6\nRUN --mount=type=secret,id=s,target=/s,uid=5 a",
            f"{SH} (user (uid 5) (gid 6))" + run("a", "(secrets (s (target /s))) (network host)"),
        ),
        # Heredocs
        ("RUN <<EOF\na\n\tb\nEOF\nRUN c", SH + run('"a\\n\\tb\\n"') + run("c")),
        ("RUN <<-EOF\n\ta\n\t\tEOF\nRUN c", SH + run('"a\\n"') + run("c")),
        ("RUN <<'E F'\n$a\nE F", SH + run('"$a\\n"')),
        ('RUN <<"EOF"\na\\\nEOF', SH + run('"a\\\\\\n"')),
        ("RUN << EOF\na\nEOF", SH + run('"a\\n"')),
        ("RUN <<-EOF\n\ta\x0c\tb\u2028\tc\nEOF", SH + run('"a\x0c\tb\u2028\tc\\n"')),
        ("RUN --network=none <<EOF\nEOF", SH + run('""', "")),
        ("RUN cat <<EOF >/x\n# a\nEOF", SH + run('"cat <<EOF >/x\\n# a\\nEOF"')),
        ("RUN a <<A 3<<B\n1\nA\n2\nB", SH + run('"a <<A 3<<B\\n1\\nA\\n2\\nB"')),
        ("RUN echo it's <<EOF", SH + run('"echo it\'s <<EOF"')),
        ("RUN a <<<b", SH + run('"a <<<b"')),
        ('RUN ["a", "<<EOF"]', "(shell a)" + run('"<<EOF"')),
        # SHELL
        ('SHELL ["a", "-c"]', "(shell a -c)"),
        ('SHELL [ "a" ]\nRUN b', "(shell a)" + run("b")),
        ('RUN a\nSHELL ["b"]\nRUN c', SH + run("a") + "(shell b)" + run("c")),
        # WORKDIR, USER
        ("WORKDIR /a\nWORKDIR b/c", "(workdir /a) (workdir b/c)"),
        ("WORKDIR /a/b\nWORKDIR ../c", "(workdir /a/b) (workdir /a/c)"),
        ('WORKDIR "/a b"\nWORKDIR /a\\ b', '(workdir "/a b") (workdir "/a b")'),
        ("USER 0\nUSER root\nUSER root:0", "(user (uid 0) (gid 0))" * 3),
        ("USER 5:6\nRUN a", f"{SH} (user (uid 5) (gid 6))" + run("a")),
        ("USER 5:root", "(user (uid 5) (gid 0))"),
        ("ARG U=7\nUSER $U:$U", "(env U 7) (user (uid 7) (gid 7))"),
        # ENV, ARG
        ("ENV A b c", '(env A "b c")'),
        ('ENV A=b C="d e" F=g\\ h', '(env A b) (env C "d e") (env F "g h")'),
        ("ENV A=b \\\n  C='$A'", "(env A b) (env C $A)"),
        ("ENV A=1\nENV A=2 B=$A", "(env A 1) (env A 2) (env B 1)"),
        ('ENV A="b\\"c\\\\d\\e"', '(env A "b\\"c\\\\d\\\\e")'),
        ("ENV A=\\$B", "(env A $B)"),
        ("ENV A=", '(env A "")'),
        ("ENV A=1\nENV B=${A}x${A:-y}${A:+z}", "(env A 1) (env B 1x1z)"),
        ("ARG A\nENV B=${A:-y}${A:+z}${A-q}$A", "(env B yq)"),
        (
            "ENV A=\nENV B=${A:-y} C=${A-y} D=${A:+y} E=${A+y}",
            '(env A "") (env B y) (env C "") (env D "") (env E y)',
        ),
        ("ENV A=1\nENV B=${A:+${A:-x}-${A}}", "(env A 1) (env B 1-1)"),
        ("ENV A=$ B=$1$? C=a$", '(env A $) (env B "") (env C a$)'),
        ("ARG A=1 B\nRUN x", f"{SH} (env A 1)" + run("x")),
        # The later of an ENV and an ARG counts; one without a value keeps what is set.
        ("ENV A=1\nARG A=2\nENV B=$A", "(env A 1) (env A 2) (env B 2)"),
        ("ARG A=1\nENV A=2\nENV B=$A", "(env A 1) (env A 2) (env B 2)"),
        ("ARG A=1\nARG A\nWORKDIR /v$A", "(env A 1) (workdir /v1)"),
        ("ENV A=1\nARG A\nWORKDIR /v$A", "(env A 1) (workdir /v1)"),
        ("ARG A=1 B=$A\nWORKDIR /v$B", "(env A 1) (env B 1) (workdir /v1)"),
        ("ARG BUILDKIT_SBOM_SCAN_STAGE=1\nRUN a", SH + run("a")),
        ('ENV A=1\nENV B="\\$A" C="\\\\$A"', "(env A 1) (env B $A) (env C \\1)"),
        # Comments
        ("# a\n#b\n#  c\nUSER 0", '(comment a) (comment b) (comment " c") (user (uid 0) (gid 0))'),
        ("#  a \r\n\t# b", '(comment " a ") (comment b)'),
        ("USER 0\n# a\n\n# b", "(user (uid 0) (gid 0)) (comment a) (comment b)"),
        ("# escape=`\nRUN a \\\n b", f'{SH} (comment "escape=`")' + run('"a  b"')),
    ],
)
def test_instruction_has_an_equal(text: str, ops: str) -> None:
    assert convert(f"FROM b\n{text}") == spec(ops)


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("COPY a b", "(copy (src a) (dst b))"),
        ("COPY a b/", "(copy (src a) (dst b/))"),
        ("COPY a b /c/", "(copy (src a b) (dst /c/))"),
        ('COPY ["a b", "c"]', '(copy (src "a b") (dst c))'),
        ('COPY "a" b', "(copy (src a) (dst b))"),
        ("ENV D=/x\nCOPY $D/a ${D}/b", "(env D /x) (copy (src /x/a) (dst /x/b))"),
        # A directory's contents
        ("COPY . .", "(copy (src .) (dst .))"),
        ("COPY . /d/", "(copy (src .) (dst /d/))"),
        ("COPY ./ /d", "(copy (src ./) (dst /d))"),
        ("COPY s/ /d/", "(copy (src s/) (dst /d))"),
        ("COPY s/ /", "(copy (src s/) (dst /.))"),
        ("COPY s/ ./", "(copy (src s/) (dst .))"),
        ("COPY a .", "(copy (src a) (dst ./))"),
        (
            "COPY a s/ c d/",
            "(copy (src a) (dst d/)) (copy (src s/) (dst d)) (copy (src c) (dst d/))",
        ),
        ("WORKDIR /w/x\nCOPY a ../y/", "(workdir /w/x) (copy (src a) (dst /w/y/))"),
        # Owners
        ("COPY --chown=5:6 a b", "(user (uid 5) (gid 6)) (copy (src a) (dst b))"),
        ("COPY --chown=5 a b", "(user (uid 5) (gid 5)) (copy (src a) (dst b))"),
        ("COPY --chown=root:root a b", "(copy (src a) (dst b))"),
        (
            "COPY --chown=5:6 a b\nRUN c",
            f"{SH} (user (uid 5) (gid 6)) (copy (src a) (dst b)) (user (uid 0) (gid 0))" + run("c"),
        ),
        ("USER 5:6\nCOPY --chown=5:6 a b", "(user (uid 5) (gid 6)) (copy (src a) (dst b))"),
        (
            "USER 5:6\nCOPY a b\nRUN c",
            f"{SH} (user (uid 5) (gid 6)) (user (uid 0) (gid 0)) (copy (src a) (dst b))"
            "(user (uid 5) (gid 6))" + run("c"),
        ),
    ],
)
def test_copy_has_an_equal(text: str, ops: str) -> None:
    assert convert(f"FROM b\n{text}") == spec(ops)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS s\nFROM b\nCOPY --from=s x y",
         "((build s ((from a))) (from b) (copy (from (build s)) (src x) (dst y)))"),
        ("FROM a AS S\nFROM b\nCOPY --from=s x y",
         "((build S ((from a))) (from b) (copy (from (build S)) (src x) (dst y)))"),
        ("FROM a\nFROM b\nCOPY --from=0 x y",
         "((build stage-0 ((from a))) (from b) (copy (from (build stage-0)) (src x) (dst y)))"),
        # A stage that continues another has its ops, and its context.
        ("FROM b AS s\nENV A=1\nWORKDIR /w\nUSER 1:2\nFROM s\nENV B=$A\nCOPY --chown=1:2 a ../c",
         ("((from b) (env A 1) (workdir /w) (user (uid 1) (gid 2)) (env B 1)"
         "(copy (src a) (dst /c)))")),
        ('FROM b AS s\nSHELL ["z"]\nARG A=1\nFROM s AS t\nRUN a\nFROM T\nENV B=$A',
         f"((from b) (shell z) (env A 1) {run('a')} (env B 1))"),
        ("FROM b AS s\nRUN a\nFROM s\nCOPY --from=s x y",
         (f"((build s ((from b) {SH} {run('a')})) (from b) {SH} {run('a')}"
         "(copy (from (build s)) (src x) (dst y)))")),
        # ARG before the first FROM
        ("ARG V=1\nARG W=b:$V\nFROM ${W}\nARG V\nENV A=$V", "((from b:1) (env V 1) (env A 1))"),
        ("ARG V=1\nFROM b:$V\nARG V=2\nENV A=$V", "((from b:1) (env V 2) (env A 2))"),
        ("ARG V\nFROM b:${V:-9}", "((from b:9))"),
        ("ARG V=1 W=$V\nARG V\nFROM b:$V-$W\nARG W", "((from b:1-1) (env W 1))"),
        ("ARG V=1\nFROM b AS s\nARG V=2\nFROM s\nARG V", "((from b) (env V 2) (env V 1))"),
        ("FROM b AS s\nARG V=2\nFROM s\nARG V\nWORKDIR /$V", "((from b) (env V 2) (workdir /2))"),
        ("# escape=`\nFROM b\nRUN --mount=type=cache,target=/c\\d a",
         "((from b) (shell cmd /S /C) (run (cache (/cd (target /cd))) (network host) (shell a)))"),
        ("# a\nARG V=1\n\n# b\nFROM b:$V\n# c", "((from b:1) (comment a) (comment b) (comment c))"),
        # Directives and other beginnings
        ("# syntax=docker/dockerfile:1\n#escape = `\nFROM b\nENV A=a` b B=c\\d",
         '((from b) (env A "a b") (env B "c\\\\d"))'),
        ("# escape=`\nFROM b\nUSER Me\nCOPY a b\nRUN c `\nd",
         ('((from b) (shell cmd /S /C) (user (name Me)) (copy (src a) (dst b))'
         ' (run (network host) (shell "c d")))')),
        ("\ufeffFROM archive:busybox.tar", "((from archive:busybox.tar))"),
        ('FROM "b" as x', "((from b))"),
    ],
)  # fmt: skip
def test_file_has_an_equal(text: str, expected: str) -> None:
    assert convert(text) == parse(expected.encode())


def test_sources_are_looked_up_where_they_can_be() -> None:
    kinds = {"f": "file", "d": "directory"}
    text = b"FROM b\nCOPY f x/\nCOPY d x/\nCOPY d f n x/\nCOPY --from=0 d x/\n"
    converted = from_dockerfile(b"FROM a\n" + text, file="f", kind=kinds.get)  # type: ignore[arg-type]  # literals
    assert (
        converted.stage.ops
        == spec(
            "(copy (src f) (dst x/)) (copy (src d) (dst x)) (copy (src d) (dst x))"
            "(copy (src f n) (dst x/))"
        ).ops
        + parse(
            b"((build stage-0 ((from a))) (from b) (copy (from (build stage-0)) (src d) (dst x/)))"
        ).ops
    )
    assert [note.partition(" files")[0] for note in converted.notes] == [
        "f:5: COPY: are 'n'",
        "f:6: COPY: are 'd'",
    ]


def test_file_goes_into_a_directory_that_is_there() -> None:
    kinds = {"f": "file", "d": "directory"}
    text = b"FROM b\nWORKDIR /w\nCOPY f /w\nCOPY d /w\nCOPY n /w\nCOPY f /usr/bin\nCOPY f /new\n"
    converted = from_dockerfile(text, file="f", kind=kinds.get)  # type: ignore[arg-type]  # literals
    assert converted.stage == spec(
        "(workdir /w) (copy (src f) (dst /w/)) (copy (src d) (dst /w)) (copy (src n) (dst /w))"
        "(copy (src f) (dst /usr/bin/)) (copy (src f) (dst /new))"
    )
    assert [note.partition(" files")[0] for note in converted.notes] == ["f:5: COPY: are 'n'"]


@pytest.mark.parametrize("text", ["ENV A=1\nARG A", "ARG A=1\nARG A", "ARG A="])
def test_arg_that_is_set_already_is_not_noted(text: str) -> None:
    assert from_dockerfile(f"FROM a\n{text}".encode()).notes == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("FROM a\nARG A", "f:2: ARG A has no default"),
        ("FROM a\nARG BUILDKIT_SBOM_SCAN_STAGE", "f:2: ARG BUILDKIT_SBOM_SCAN_STAGE is for"),
        ("FROM a\nUSER 1:1\nWORKDIR x", "f:3: WORKDIR x: if it is missing"),
        ("FROM a\nCOPY x y/", "f:2: COPY: are 'x' files or directories?"),
        ("FROM a AS t\nFROM b", "f:1: stage t is not needed"),
        ("FROM a\nCMD x", "f:2: CMD is dropped"),
        ('FROM a\nEntrypoint ["x"]', "f:2: ENTRYPOINT is dropped"),
    ],
)
def test_what_a_person_should_know_is_noted(text: str, part: str) -> None:
    (note,) = from_dockerfile(text.encode(), file="f", ignore_metadata=True).notes
    assert note.startswith(part)
