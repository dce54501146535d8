"""Names of platforms: `OS/ARCH[/VARIANT]` as Go and OCI images write them."""

import platform

__all__ = ["machine_platform", "same_platform"]

# `uname -m` to GOARCH.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}

_SYSTEM_AND_ARCHITECTURE = 2


def machine_platform() -> str:
    """The platform of this machine, such as `linux/amd64`."""
    machine = platform.machine()
    return f"{platform.system().lower()}/{_ARCHITECTURES.get(machine, machine)}"


def same_platform(one: str, other: str) -> bool:
    """Whether system and architecture agree; a variant that one side leaves out matches."""
    first, second = one.lower().split("/"), other.lower().split("/")
    agree = all(a == b for a, b in zip(first, second, strict=False))
    return agree and min(len(first), len(second)) >= _SYSTEM_AND_ARCHITECTURE
