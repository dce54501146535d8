"""How fast specs are read, checked and laid out, in MiB/s: the best of several runs."""

import sys
import time
from collections.abc import Callable

from obuilder.spec import check, format_spec, parse, parse_sexps, pretty, stage_to_sexp, to_mach

__all__ = ["main"]

MIB = 1 << 20
RUNS = 5
STEP = """ (run (network host) (cache (apt (target /var/cache/apt/archives)))
      (shell "apt-get install -y build-essential pkg-config && make -j 2 all-{number}"))
 (copy (src src/{number} include) (dst /usr/src/package/))
"""


def spec_of(size_bytes: int) -> bytes:
    """A spec of about this size, as generators write them."""
    steps = size_bytes // len(STEP)
    body = "".join(STEP.format(number=number) for number in range(steps))
    return f"((from debian:bookworm)\n{body})\n".encode()


def speed(work: Callable[[], object], size_bytes: int) -> str:
    """MiB of spec per second and seconds, of the fastest run."""
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return f"{size_bytes / MIB / min(times):6.1f} MiB/s  {min(times):6.3f} s"


def main() -> None:
    """Print a table for a spec of 1 MiB."""
    text = spec_of(MIB)
    stage = parse(text)
    works: dict[str, Callable[[], object]] = {
        "S-expressions": lambda: parse_sexps(text),
        "parse": lambda: parse(text),
        "check": lambda: check(text),
        "machine form": lambda: to_mach(stage_to_sexp(stage)),
        "pretty": lambda: pretty(stage),
        "format": lambda: format_spec(text),
    }
    sys.stdout.write(f"spec of {len(text) / MIB:.2f} MiB, {len(stage.ops)} ops\n")
    for name, work in works.items():
        sys.stdout.write(f"{name:<14} {speed(work, len(text))}\n")


if __name__ == "__main__":
    main()
