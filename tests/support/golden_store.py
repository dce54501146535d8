"""What golden/store-db.txt tells: a demo build by OBuilder 0.7, and the store after it.

The file has all but the contents of the root file systems and of the three
files that the demo copied. Tests make those up, so the copy and what was built
on it have other ids there: `Golden.renamed`.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from obuilder._core.context import Context
from obuilder._core.identity import base_id, copy_preimage, identify, run_preimage
from obuilder._core.manifest import scan
from obuilder.spec import Sexp, ast, parse
from obuilder.types import Id, Secret

__all__ = ["DEMO_SPEC", "SECRET", "TOOL", "Entry", "Golden", "demo_ids", "golden"]

_TEXT = Path(__file__).parents[1].joinpath("golden", "store-db.txt").read_text()
_STORES = re.split(r"^-- =+\n", _TEXT, flags=re.MULTILINE)[1:]
_ENTRY = re.compile(r"^-- ([-a-z]{10}) (\d+):(\d+) [dfl] \./(\S+)", re.MULTILINE)
TOOL = "built-in-tools\n"
_ENV = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)

SECRET = "s3cret"
DEMO_SPEC = """((build "tools"
   ((from busybox)
    (shell /bin/sh -c)
    (run (shell "mkdir -p /out && echo built-in-tools > /out/tool && chmod 755 /out/tool"))))
 (from debian:bookworm)
 (comment "multi-stage demo")
 (env GREETING "hello world")
 (env PATH /opt/bin:/usr/bin:/bin)
 (workdir /work)
 (user (uid 1000) (gid 1000))
 (copy (src hello.txt run.sh link sub) (dst ./) (exclude skip.me))
 (copy (from (build tools)) (src /out/tool) (dst /opt/bin/tool))
 (workdir deeper)
 (run (cache (demo-cache (target /home/cache)))
      (network host)
      (secrets (tok (target /run/secrets/tok)))
      (shell "echo $GREETING; id -u; pwd; ls -la /work; cat /opt/bin/tool; \
cat /run/secrets/tok; echo; echo x >> /home/cache/n; wc -l < /home/cache/n; hostname"))
 (user (uid 0) (gid 0))
 (run (shell "ls -la /opt/bin /work/sub; cat /etc/hosts; env | sort")){more})
"""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Entry:
    """A name in a store, as `find` shows it."""

    path: str
    mode: str
    owner: str


@dataclass(frozen=True)
class Golden:
    """What the golden file tells of one store."""

    text: str

    @cached_property
    def script(self) -> str:
        """The database as SQL."""
        found = re.search(r"^PRAGMA foreign_keys.*?^COMMIT;$", self.text, re.MULTILINE | re.DOTALL)
        assert found
        return found[0]

    @cached_property
    def output(self) -> str:
        """What the build printed."""
        lines = re.findall(r"^--   \| (.*)$", self.text.partition("-- files in")[0], re.MULTILINE)
        return "".join(f"{line}\n" for line in lines)

    @cached_property
    def entries(self) -> list[Entry]:
        """The names in the store, but not its root."""
        return sorted(
            Entry(path=path, mode=mode, owner=f"{uid}:{gid}")
            for mode, uid, gid, path in _ENTRY.findall(self.text)
        )

    @cached_property
    def ids(self) -> list[Id]:
        """The results in the order of their making."""
        return [Id(id) for id in re.findall(r"VALUES\('(\w{64})'", self.script)]

    def log(self, id: Id) -> bytes:
        """A log, whole: the golden file shows its size and beginning, the output all of it."""
        found = re.search(rf"{id}/log: \S+ \S+ (\d+)\n((?:--   \| .*\n)*)", self.text)
        assert found
        before = self.output.partition(f'---> saved as "{id}"')[0].encode()
        log = before[len(before) - int(found[1]) :]
        shown = "\n".join(re.findall(r"^--   \| (.*)$", found[2], re.MULTILINE))
        assert log.startswith(shown.encode())
        return log

    def env(self, id: Id) -> str:
        """The `env` file."""
        found = re.search(rf"{id}/env: (.*)", self.text)
        assert found
        return found[1]

    def renamed(self, source: Path) -> "Golden":
        """The same with the ids that the demo has for this source tree."""
        text = self.text
        copied = identify(_copy_preimage(self.ids[2], source))
        for theirs, ours in zip(self.ids, demo_ids(Id(copied)), strict=True):
            text = text.replace(theirs, ours)
        return Golden(text)


def golden(store: str) -> Golden:
    """The part of the golden file for `btrfs` or `rsync` (mode copy)."""
    wanted = {"btrfs": "--store=btrfs:", "rsync": "--rsync-mode copy "}[store]
    return Golden(next(text for text in _STORES if wanted in text.partition("\n")[0]))


def demo_ids(copied: Id) -> list[Id]:
    """The ids of the demo's steps, in the golden file's order, given that of the copy."""
    stage = parse(DEMO_SPEC.format(more="").encode(), file="demo.spec")
    ((_, tools),) = stage.builds
    *_, tool_made = _runs(tools, [base_id("busybox")])
    third = identify(
        copy_preimage(
            base=copied,
            user=next(op for op in _contexts(stage) if isinstance(op[1], ast.Copy))[0].unix_user(),
            manifests=[("File", ("out/tool", hashlib.sha256(TOOL.encode()).hexdigest()))],
            dst="/opt/bin/tool",
        )
    )
    ran = _runs(stage, [third])
    return [base_id("busybox"), tool_made, base_id("debian:bookworm"), copied, third, *ran]


def _contexts(stage: ast.Stage) -> Iterator[tuple[Context, ast.Op]]:
    context = Context(shell=("/usr/bin/env", "bash", "-c"), env=_ENV)
    for op in stage.ops:
        yield context, op
        context = context.after(op)


def _runs(stage: ast.Stage, bases: list[Id]) -> list[Id]:
    for context, op in _contexts(stage):
        if isinstance(op, ast.Run):
            secrets = [Secret(target=each.target, value=SECRET.encode()) for each in op.secrets]
            user = context.unix_user()
            bases = [
                *bases,
                identify(run_preimage(bases[-1], context, op, user=user, secrets=secrets)),
            ]
    return bases[1:]


def _copy_preimage(base: Id, source: Path) -> Sexp:
    stage = parse(DEMO_SPEC.format(more="").encode(), file="demo.spec")
    context, op = next(found for found in _contexts(stage) if isinstance(found[1], ast.Copy))
    assert isinstance(op, ast.Copy)
    manifests = [scan(source, each, exclude=op.exclude, check=lambda: None) for each in op.src]
    return copy_preimage(
        base=base,
        user=context.unix_user(),
        manifests=[manifest.sexp() for manifest in manifests],
        dst=context.join(op.dst),
    )
