"""Pairs of builds that have their first steps in common, each in a process of its own."""

import subprocess

from support.command import SHELL_LINES, Command

__all__ = ["paired_spec", "started"]


def paired_spec(step: str, seed: int, branch: str) -> str:
    """Five steps, of which the two builds of one number have the first three in common.

    `step` has `{name}` in it.
    """
    names = [f"r{seed}s{number}" for number in range(3)] + [f"r{seed}{branch}{n}" for n in (3, 4)]
    return f"{SHELL_LINES} {' '.join(step.format(name=name) for name in names)})"


def started(obuilder: Command, text: str, name: str) -> "subprocess.Popen[bytes]":
    """A build of a spec of that name, in a session of its own."""
    path = obuilder.directory / name
    path.write_text(text)
    return subprocess.Popen(
        obuilder.argv("build", "-f", str(path), str(obuilder.source)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=obuilder.directory,
        env=obuilder.environment(),
        start_new_session=True,
    )
