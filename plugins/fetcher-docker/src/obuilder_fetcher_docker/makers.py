"""Whose a container is: written on its label, so that those of dead builders can be removed."""

import os
from pathlib import Path

__all__ = ["LABEL", "is_dead", "maker"]

LABEL = "obuilder.fetch"
_STARTED = 19
"""The start time among the fields of /proc/PID/stat that follow the program's name (proc(5))."""


def maker() -> str:
    """Who we are: boot, process namespace, number and start time."""
    return " ".join((*_here(), str(os.getpid()), _start_time(os.getpid()) or "0"))


def is_dead(label: str) -> bool:
    """Whether the maker was of this boot and namespace, and is no more.

    Of any other nothing is known: an engine may serve many machines.
    """
    boot, namespace, number, started = (label.split(" ") + [""] * 4)[:4]
    if (boot, namespace) != _here() or not number.isdecimal():
        return False
    return _start_time(int(number)) != started


def _here() -> tuple[str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot, os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a path


def _start_time(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_STARTED]
    except OSError:  # there is no such process
        return None
