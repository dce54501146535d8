"""A step as the `config.json` of an OCI bundle: what OBuilder writes, in the same order.

The values are OBuilder 0.7's (`lib/sandbox.runc.ml`), which are Docker's
defaults of 2020; the golden file `runc_config.json` pins them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from obuilder.errors import BuildError
from obuilder.types import RunConfig

__all__ = ["Places", "check", "config_json"]

MAX_ID = 2**32 - 2
"""The kernel's largest user and group; 2**32 - 1 means "leave as it is" (chown(2))."""

_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_OPEN_FILES = 1024
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_SYNC_CALLS = ("fsync", "fdatasync", "msync", "sync", "syncfs", "sync_file_range")
# A filter must name every instruction set that a program may switch to, or it is no filter.
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "i686": ("SCMP_ARCH_X86",),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "armv7l": ("SCMP_ARCH_ARM",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
}
_SYSTEM_MOUNTS = (
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),  # noqa: S108 - the container's
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
)

_Json = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where on the host lies what the container shows; all absolute.

    `secrets` has one file for each secret of the step, in its order;
    `resolv_conf` is the host's, or None if it has none.
    """

    rootfs: Path
    hosts: Path
    resolv_conf: Path | None
    secrets: Sequence[Path] = ()


def check(config: RunConfig) -> None:
    """Refuse what no OCI runtime can be asked. Raises BuildError.

    Codes: `sandbox.network`, `sandbox.user`, `sandbox.not-utf8`.
    """
    if config.network not in ((), ("host",)):
        asked = "; ".join(json.dumps(name) for name in config.network)
        raise BuildError(
            f"Unsupported network configuration [{asked}]",
            hint="(network host), or no network field for none",
            code="sandbox.network",
        )
    for kind, number in (("user", config.user.uid), ("group", config.user.gid)):
        if not 0 <= number <= MAX_ID:
            raise BuildError(
                f"{number} is not a {kind} id: they go from 0 to {MAX_ID}", code="sandbox.user"
            )
    for label, text in _texts(config):
        if not _is_utf8(text):
            raise BuildError(
                f"{label} is not UTF-8 text, and an OCI runtime takes nothing else: {text!a}",
                hint="put such bytes in a file and copy it, or make them with printf",
                code="sandbox.not-utf8",
            )


def config_json(config: RunConfig, places: Places, *, fast_sync: bool, machine: str) -> bytes:
    """The text of `config.json` for a step that `check` has passed.

    `machine` is the kernel's name for the processor (`uname -m`). Raises
    BuildError (`sandbox.not-utf8`) if a path of the store is not UTF-8.
    """
    document: _Json = {
        "ociVersion": "1.0.1-dev",
        "process": _process(config),
        "root": {"path": str(places.rootfs), "readonly": False},
        "hostname": config.hostname,
        "mounts": list(_mounts(config, places)),
        "linux": {
            "namespaces": [{"type": name} for name in _namespaces(config)],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READONLY,
            "seccomp": _seccomp(fast_sync=fast_sync, machine=machine),
        },
    }
    try:
        return json.dumps(document, ensure_ascii=False, indent=1).encode()
    except UnicodeEncodeError as error:
        raise BuildError(
            f"the path of the store is not UTF-8 text: {str(places.rootfs)!a}",
            hint="move the store: an OCI runtime takes only UTF-8",
            code="sandbox.not-utf8",
        ) from error


def _process(config: RunConfig) -> _Json:
    sets = ("bounding", "effective", "inheritable", "permitted")
    return {
        "terminal": False,
        "user": {"uid": config.user.uid, "gid": config.user.gid},
        "args": config.argv,
        "env": [f"{name}={value}" for name, value in config.env],
        "cwd": config.cwd,
        "capabilities": dict.fromkeys(sets, _CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": _OPEN_FILES, "soft": _OPEN_FILES}],
        "noNewPrivileges": False,
    }


def _namespaces(config: RunConfig) -> Sequence[str]:
    isolated = ("pid", "ipc", "uts", "mount")
    return isolated if config.network else ("network", *isolated)


def _mounts(config: RunConfig, places: Places) -> Iterator[_Json]:
    for destination, kind, source, options in _SYSTEM_MOUNTS:
        yield _mount(destination, source, options, kind=kind)
    yield _mount("/etc/hosts", places.hosts, "ro,rbind,rprivate")
    if config.network and places.resolv_conf is not None:
        yield _mount("/etc/resolv.conf", places.resolv_conf, "ro,rbind,rprivate")
    for secret, file in zip(config.secrets, places.secrets, strict=True):
        yield _mount(secret.target, file, "rbind,rprivate,ro")
    for mount in config.mounts:
        readonly = ",ro" if mount.readonly else ""
        yield _mount(mount.target, mount.source.absolute(), f"bind,nosuid,nodev{readonly}")


def _mount(destination: str, source: str | Path, options: str, *, kind: str = "bind") -> _Json:
    return {
        "destination": destination,
        "type": kind,
        "source": str(source),
        "options": options.split(","),
    }


def _seccomp(*, fast_sync: bool, machine: str) -> _Json:
    skipped = {"names": _SYNC_CALLS, "action": "SCMP_ACT_ERRNO", "errnoRet": 0}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [skipped] if fast_sync else [],
        "architectures": _ARCHITECTURES.get(machine, ()),
    }


def _texts(config: RunConfig) -> Iterator[tuple[str, str]]:
    yield from (("an argument of the command", text) for text in config.argv)
    yield "the working directory", config.cwd
    yield "the host name", config.hostname
    for name, value in config.env:
        yield "the name of an environment variable", name
        yield f"environment variable {name}", value
    yield from (("the target of a secret", secret.target) for secret in config.secrets)
    yield from (("the target of a mount", mount.target) for mount in config.mounts)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # surrogates: bytes that were not UTF-8
        return False
    return True
