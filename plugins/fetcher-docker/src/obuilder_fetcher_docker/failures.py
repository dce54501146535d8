"""What the docker CLI says on standard error, turned into a code and a hint.

The CLI's exit status is 1 for every reason there is, so its words must tell.
Source of the words: docker 20.10 and 28.2 as run against dockerd 20.10, and
those that the sources of later releases use.
"""

from dataclasses import dataclass

from obuilder.errors import FetchError, ImageError

__all__ = ["ARCHIVE_FORM", "failure"]

_QUOTED_CHARS = 600

ARCHIVE_FORM = "without an engine, use a root file system tarball: (from archive:PATH)"
"""The way that needs no engine, for hints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    code: str
    signs: tuple[str, ...]
    what: str
    hint: str
    error: type[FetchError] = FetchError


# The first kind that has a sign in the text wins. Trouble with the engine comes
# first: its texts can contain those of trouble with a registry.
_KINDS = (
    _Kind(
        code="docker.permission",
        signs=("permission denied while trying to connect", "connect: permission denied"),
        what="no permission to use the Docker engine",
        hint="run as root, or as a user of the socket's group (usermod -aG docker USER)",
    ),
    _Kind(
        code="docker.no-engine",
        signs=(
            "cannot connect to the docker daemon",
            "failed to connect to the docker api",
            "is the docker daemon running",
            "error during connect",
            "unable to resolve docker endpoint",
            "unable to parse docker host",
        ),
        what="no Docker engine answers",
        hint=f"start it (systemctl start docker) or set DOCKER_HOST; {ARCHIVE_FORM}",
    ),
    _Kind(
        code="docker.version",
        signs=("client version", "minimum supported api version"),
        what="the docker CLI and the Docker engine are too far apart in age",
        hint="set the fetcher's option `docker` to the CLI that came with the engine",
    ),
    _Kind(
        code="docker.no-space",
        signs=("no space left on device", "disk quota exceeded"),
        what="the Docker engine has no space left",
        hint="free some: docker image prune, or look at docker system df",
    ),
    _Kind(
        code="docker.platform",
        signs=(
            "no matching manifest for",
            "does not match the specified platform",
            "does not provide the specified platform",
            "no match for platform",
        ),
        what="the image is not available for this platform",
        hint="use an image that is made for this machine",
        error=ImageError,
    ),
    _Kind(
        code="docker.rate-limit",
        signs=("toomanyrequests", "too many requests"),
        what="the registry refuses more pulls for now",
        hint="wait, or docker login, which allows more of them",
    ),
    # Docker Hub's answer to both; it contains a sign of the next kind.
    _Kind(
        code="docker.no-such-image",
        signs=("repository does not exist or may require",),
        what="there is no such image, or it is private",
        hint="check name, tag and digest; if the image is private, docker login first",
        error=ImageError,
    ),
    _Kind(
        code="docker.login",
        signs=(
            "no basic auth credentials",
            "unauthorized",
            "authentication required",
            "access denied",
            "denied:",
            "error getting credentials",
        ),
        what="the registry wants a login",
        hint="docker login REGISTRY, as the user that runs obuilder",
    ),
    _Kind(
        code="docker.no-such-image",
        signs=("manifest unknown", "name unknown", "no such image", "not found"),
        what="there is no such image",
        hint="check name, tag and digest: docker pull IMAGE",
        error=ImageError,
    ),
    _Kind(
        code="docker.registry",
        signs=(
            "no such host",
            "connection refused",
            "timeout",
            "server misbehaving",
            "tls:",
            "x509:",
            "unexpected http status",
            ": eof",
            "network is unreachable",
            "connection reset",
            "server gave http response to https client",
        ),
        what="the Docker engine cannot reach the registry",
        hint="the engine does the pulling: check its network, proxy and certificates",
    ),
)


def failure(task: str, *, status: int, stderr: bytes, base: str) -> FetchError:
    """The error for a docker command that ended with `status` while it was to `task`.

    A status below 0 is minus the signal's number.
    """
    said = _essence(stderr)
    # Without the image's name, which may read like anything.
    lower = said.lower().replace(base.lower(), "")
    for kind in _KINDS:
        if any(sign in lower for sign in kind.signs):
            return kind.error(f"{kind.what}: {said}", where=base, hint=kind.hint, code=kind.code)
    how = said or (f"exit status {status}" if status >= 0 else f"ended by signal {-status}")
    return FetchError(
        f"docker could not {task}: {how}",
        where=base,
        hint="try the same by hand: docker pull, docker create, docker export",
        code="docker.failed",
    )


def _essence(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "backslashreplace").splitlines()
    told = (line.strip() for line in lines if not line.startswith("WARNING:"))
    text = " ".join(line for line in told if line)
    for prefix in ("Failed to initialize:", "Error response from daemon:", "Error:"):
        text = text.removeprefix(prefix).lstrip()
    return text if len(text) <= _QUOTED_CHARS else "…" + text[-_QUOTED_CHARS:]
