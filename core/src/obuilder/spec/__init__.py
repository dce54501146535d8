"""The language of build scripts: text to a model and back. Pure; knows nothing of building."""

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
from obuilder.spec.check import check
from obuilder.spec.construct import (
    Spec,
    cache,
    comment,
    copy,
    env,
    run,
    secret,
    shell,
    stage,
    user,
    windows_user,
    workdir,
)
from obuilder.spec.format import format_spec
from obuilder.spec.parser import parse
from obuilder.spec.printer import quoted, to_hum, to_mach
from obuilder.spec.reader import MAX_DEPTH, parse_sexps
from obuilder.spec.sexp import Node, Sexp, atom_bytes, atom_text
from obuilder.spec.suggest import nearest
from obuilder.spec.writer import (
    MAX_STAGE_DEPTH,
    heading,
    op_to_sexp,
    pretty,
    stage_to_sexp,
    step_heading,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_STAGE_DEPTH",
    "Cache",
    "Comment",
    "Copy",
    "Env",
    "Node",
    "Op",
    "Run",
    "SecretMount",
    "Sexp",
    "Shell",
    "Spec",
    "Stage",
    "UnixUser",
    "User",
    "WindowsUser",
    "Workdir",
    "atom_bytes",
    "atom_text",
    "cache",
    "check",
    "comment",
    "copy",
    "env",
    "format_spec",
    "heading",
    "nearest",
    "op_to_sexp",
    "parse",
    "parse_sexps",
    "pretty",
    "quoted",
    "run",
    "secret",
    "shell",
    "stage",
    "stage_to_sexp",
    "step_heading",
    "to_hum",
    "to_mach",
    "user",
    "windows_user",
    "workdir",
]
