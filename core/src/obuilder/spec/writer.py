"""A stage to text: S-expressions for ids, the layout of whole specs, and step headings."""

from obuilder.errors import SpecError
from obuilder.spec._boxes import BoxPrinter, Kind
from obuilder.spec._layout import Layout
from obuilder.spec.ast import (
    Cache,
    Comment,
    Copy,
    Env,
    Op,
    Run,
    SecretMount,
    Shell,
    Stage,
    UnixUser,
    User,
    WindowsUser,
    Workdir,
)
from obuilder.spec.sexp import Sexp, atom_bytes

__all__ = [
    "MAX_STAGE_DEPTH",
    "heading",
    "op_to_sexp",
    "pretty",
    "stage_to_sexp",
    "step_heading",
]

# Stages within stages, so that code that walks a spec may call itself.
MAX_STAGE_DEPTH = 100


def stage_to_sexp(stage: Stage) -> Sexp:
    """The canonical form, its machine print and `parse` are inverses.

    SpecError (`spec.too-deep`) for stages more than MAX_STAGE_DEPTH deep.
    """
    return _stage(stage, 0)


def _stage(stage: Stage, depth: int) -> tuple[Sexp, ...]:
    if depth > MAX_STAGE_DEPTH:
        raise SpecError(f"stages more than {MAX_STAGE_DEPTH} deep", code="spec.too-deep")
    builds = tuple(("build", name, _stage(child, depth + 1)) for name, child in stage.builds)
    return (*builds, ("from", stage.from_), *(op_to_sexp(op) for op in stage.ops))


def op_to_sexp(op: Op) -> tuple[Sexp, ...]:
    """The canonical form of an op: fields in the order of the grammar, empty ones left out."""
    sexp: tuple[Sexp, ...]
    match op:
        case Comment(text):
            sexp = ("comment", text)
        case Workdir(path):
            sexp = ("workdir", path)
        case Shell(argv):
            sexp = ("shell", *argv)
        case Env(name, value):
            sexp = ("env", name, value)
        case User(UnixUser(uid=uid, gid=gid)):
            sexp = ("user", ("uid", str(uid)), ("gid", str(gid)))
        case User(WindowsUser(name=name)):
            sexp = ("user", ("name", name))
        case Run():
            sexp = _run(op)
        case Copy():
            sexp = _copy(op)
    return sexp


def _run(run: Run) -> tuple[Sexp, ...]:
    fields: list[Sexp] = ["run"]
    if run.cache:
        fields.append(("cache", *map(_mount, run.cache)))
    if run.network:
        fields.append(("network", *run.network))
    if run.secrets:
        fields.append(("secrets", *map(_mount, run.secrets)))
    return (*fields, ("shell", run.shell))


def _copy(copy: Copy) -> tuple[Sexp, ...]:
    fields: list[Sexp] = ["copy"]
    if copy.from_ is not None:
        fields.append(("from", ("build", copy.from_)))
    fields += [("src", *copy.src), ("dst", copy.dst)]
    if copy.exclude:
        fields.append(("exclude", *copy.exclude))
    return tuple(fields)


def _mount(mount: Cache | SecretMount) -> Sexp:
    target: tuple[Sexp, ...] = (mount.id, ("target", mount.target))
    if mount.buildkit_options:
        return (*target, ("buildkit_options", mount.buildkit_options))
    return target


def pretty(stage: Stage) -> str:
    """The whole spec laid out for people: an op on each line, no newline at the end."""
    boxes = BoxPrinter()
    Layout(boxes).stage(_stage(stage, 0))
    return boxes.finish()


def heading(op: Op, *, indent: int = 0) -> str:
    """An op laid out for people, where `indent` columns of its first line are taken."""
    boxes = BoxPrinter()
    boxes.open(Kind.VERTICAL, 2)
    if indent:
        boxes.text(" " * indent)
    Layout(boxes).item(op_to_sexp(op))
    boxes.close()
    return boxes.finish()[indent:]


def step_heading(workdir: str, op: Op) -> str:
    """What the build log says before a step: `WORKDIR: OP`, the directory as it is."""
    # A byte is a column, as OCaml counts.
    return f"{workdir}: {heading(op, indent=len(atom_bytes(workdir)) + 2)}"
