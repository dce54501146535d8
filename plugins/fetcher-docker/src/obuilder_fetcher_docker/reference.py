"""What may be handed to the docker CLI as an image: the reference grammar, nothing else."""

import re
from dataclasses import dataclass
from typing import Self

from obuilder.errors import ImageError

__all__ = ["Reference", "repository"]

_MAX_CHARS = 1024  # a name has at most 255, a tag 128, a digest 128 and its algorithm

# https://github.com/distribution/reference/blob/main/reference.go
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*)(?::{_TAG})?(?:@(?P<digest>{_DIGEST}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image reference: `[DOMAIN/]NAME[:TAG][@ALGORITHM:HEX]`.

    `repository` is its name in full (`docker.io/library/busybox`).
    """

    text: str
    repository: str
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """ImageError docker.invalid-reference if `text` is anything else.

        No reference begins with `-`, so what comes through is never an option.
        """
        match = _REFERENCE.fullmatch(text) if len(text) <= _MAX_CHARS else None
        if match is None:
            raise ImageError(
                f"{text[:_MAX_CHARS]!r} is not an image reference", hint=_hint(text), code=_CODE
            )
        return cls(text=text, repository=repository(match["name"]), digest=match["digest"])


_CODE = "docker.invalid-reference"


def repository(name: str) -> str:
    """The full form of a name without tag and digest; Docker Hub's may be abbreviated."""
    domain, slash, path = name.partition("/")
    if not slash or not (
        "." in domain or ":" in domain or domain == "localhost" or domain != domain.lower()
    ):
        domain, path = "docker.io", name
    if domain == "index.docker.io":
        domain = "docker.io"
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return f"{domain}/{path}"


def _hint(text: str) -> str:
    if text.startswith("archive:"):
        return (
            "a base archive:PATH is taken by another fetcher: pip install obuilder-fetcher-archive"
        )
    lower = text.lower()
    if text != lower and _REFERENCE.fullmatch(lower[:_MAX_CHARS]):
        return f"names are in lower case: {lower}"
    return "write [REGISTRY/]NAME[:TAG] or [REGISTRY/]NAME@sha256:HEX"
