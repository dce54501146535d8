"""A Dockerfile is converted, and what came of it builds: each instruction does what it did."""

from support.command import Command

DOCKERFILE = r"""# syntax=docker/dockerfile:1
# Two stages on one base.
ARG BASE=archive:busybox.tar
FROM ${BASE} AS tools
RUN mkdir -p /out/lib && \
    # a comment on the way
    echo tool >/out/tool && echo lib >/out/lib/a

FROM $BASE AS common
ARG WHO=world
ENV GREETING="hello $WHO" PLACE=/app

FROM common
WORKDIR $PLACE
COPY --from=tools /out/tool /usr/bin/
COPY --from=tools /out/lib/ ./lib/
COPY --chown=1000:1001 data .
COPY hello.txt ${NAME:-$PLACE}/greeting
RUN <<EOF
set -e
echo "$GREETING, $WHO, from $PWD"
cat /usr/bin/tool lib/a greeting sub/file
stat -c '%u:%g' sub/file greeting
EOF
RUN cat <<-END >made
	one
	END
RUN --network=none --mount=type=cache,target=/cache touch /cache/x && ls /cache
RUN --mount=type=secret,id=word,target=/word cat /word
RUN ["echo", "exec $GREETING"]
USER 5:6
SHELL ["/bin/sh", "-ec"]
RUN id -u; id -g; cat made; false || echo failed
"""
EXPECTED = """hello world, world, from /app
tool
lib
hi
inner
1000:1001
0:0
x
open sesame
exec $GREETING
5
6
one
failed
"""


def test_a_converted_dockerfile_builds(obuilder: Command) -> None:
    (obuilder.source / "data" / "sub").mkdir(parents=True)
    (obuilder.source / "data" / "sub" / "file").write_text("inner\n")
    (obuilder.source / "hello.txt").write_text("hi\n")
    (obuilder.directory / "word").write_text("open sesame\n")
    # ${NAME:-...} of a NAME that nothing sets depends on the base image.
    text = DOCKERFILE.replace("WORKDIR", "ARG NAME\nWORKDIR")

    converted = obuilder(
        "from-dockerfile", "-", "--context", str(obuilder.source), stdin=text.encode()
    )
    assert converted.returncode == 0, converted.stderr
    spec = obuilder.directory / "spec"
    spec.write_bytes(converted.stdout)
    secret = f"word:{obuilder.directory}/word"
    done = obuilder("build", "-f", str(spec), "--secret", secret, str(obuilder.source))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.decode().splitlines() if line in EXPECTED.splitlines()]
    assert "\n".join((*lines, "")) == EXPECTED


def test_the_line_that_stands_in_the_way_is_told(obuilder: Command) -> None:
    path = obuilder.directory / "Dockerfile"
    path.write_text("FROM archive:busybox.tar\nRUN true\nADD x /\n")
    done = obuilder("from-dockerfile", "Dockerfile")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"\nDockerfile:3: ADD " in done.stderr
