"""The rules of docs/architecture.md that no linter checks."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
CORE = ROOT / "core/src/obuilder"


def python_files(*patterns: str) -> list[Path]:
    found = (path for pattern in patterns for path in ROOT.glob(pattern))
    return sorted(file for path in found for file in path.rglob("*.py"))


SHIPPED = python_files("core/src", "plugins/*/src")
TESTS = python_files("tests", "core/tests", "plugins/*/tests")
EVERY = sorted({*SHIPPED, *TESTS, *python_files("examples", "scripts", "benchmarks")})


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def is_public(path: Path) -> bool:
    """Whether no part of the module's dotted name starts with an underscore."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return not any(part.startswith("_") for part in parts if part != "__init__")


def exported(tree: ast.Module) -> list[str] | None:
    """The names in `__all__`, or None if there is none that can be read."""
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")])
                | ast.AnnAssign(target=ast.Name(id="__all__"))
            ):
                return [str(name) for name in ast.literal_eval(node.value or ast.List([]))]
    return None


def called(node: ast.AST) -> str:
    """The dotted text of what a call calls, or the empty string."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def docstrings(tree: ast.Module) -> set[int]:
    """The identities of the constants that are docstrings or stand for comments."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def registered_names() -> Iterator[str]:
    for pyproject in ROOT.glob("plugins/*/pyproject.toml"):
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        for group in project["entry-points"].values():
            yield from group


def test_the_rules_look_at_files_that_exist() -> None:
    assert len(SHIPPED) > 30
    assert len(TESTS) > 5
    assert {"rsync", "btrfs", "zfs", "runc", "archive", "docker"} <= set(registered_names())


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {where(path): len(path.read_text().splitlines()) for path in EVERY}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_module_says_its_idea_in_its_first_line() -> None:
    silent = [
        where(path)
        for path in EVERY
        if (path.name != "__init__.py" or path.read_text().strip())
        and not (
            path.read_text().startswith(('"""', 'r"""')) and (ast.get_docstring(parse(path)) or "")
        )
    ]
    assert silent == []


def test_every_public_module_has_an_exact_all() -> None:
    wrong = []
    for path in SHIPPED:
        tree = parse(path)
        if not is_public(path) or not tree.body:
            continue
        names = exported(tree)
        # obuilder/__init__ resolves its names when they are asked for.
        bound = {name for node in tree.body for name in _binds(node)}
        lazy = "__getattr__" in bound
        if names is None or (not lazy and not set(names) <= bound):
            wrong.append(where(path))
    assert wrong == []


def _binds(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name for alias in names)
        case ast.Assign() | ast.AnnAssign():
            yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
        case ast.If() | ast.Try():
            for child in node.body:
                yield from _binds(child)


def test_package_files_only_re_export() -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign, ast.If)
    wrong = [
        where(path, node.lineno)
        for path in SHIPPED
        if path.name == "__init__.py"
        for node in parse(path).body
        if not isinstance(node, allowed)
        # The hooks by which a package resolves names late (PEP 562).
        and getattr(node, "name", "") not in {"__getattr__", "__dir__"}
    ]
    assert wrong == []


STARTS = re.compile(
    r"(os\.(system|popen|exec\w+|spawn\w+|posix_spawnp?|fork|forkpty))"
    r"|((\w+\.)?(open_process|run_process|create_subprocess_\w+))|(subprocess\.\w+)|(Popen)"
)


# A program of its own, which process.py starts and which waits for what runc leaves it.
REAPER = ROOT / "plugins/sandbox-runc/src/obuilder_sandbox_runc/reaper.py"


def test_only_the_process_module_starts_programs() -> None:
    wrong = [
        where(path, node.lineno)
        for path in SHIPPED
        if path not in {CORE / "process.py", REAPER}
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Call) and STARTS.fullmatch(called(node)))
        or (isinstance(node, ast.Import) and any(name.name == "subprocess" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "subprocess")
    ]
    assert wrong == []


def test_no_test_sleeps() -> None:
    wrong = [
        where(path, node.lineno)
        for path in TESTS
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and called(node).split(".")[-1] in {"sleep", "sleep_until"}
    ]
    assert wrong == []


def test_the_core_names_no_plugin_outside_its_defaults() -> None:
    # "archive" is also an English word: as a name it stands alone or before a colon.
    names = "|".join(re.escape(name) for name in registered_names() if name != "archive")
    plugin = re.compile(
        rf"(?<![\w-])({names})(?![\w-])|^archive$|(?<!\w)archive:(?! )"
        r"|obuilder[-_](store|sandbox|fetcher)[-_][a-z]"
    )
    wrong = []
    for path in CORE.rglob("*.py"):
        tree = parse(path)
        prose = docstrings(tree)
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)) if id(node) not in prose:
                    # `docker export` in backquotes is a program that a hint advises.
                    named = plugin.search(re.sub("`[^`]*`", "", text))
                case ast.ImportFrom(module=str(text)):
                    named = plugin.search(text)
                case ast.Import(names=aliases):
                    named = plugin.search(" ".join(alias.name for alias in aliases))
                case _:
                    named = None
            if named:
                wrong.append(f"{where(path, node.lineno)}: {named[0]}")  # type: ignore[attr-defined]
    assert wrong == []


SILENCED = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<rest>.*)")
# The command line imports late so that --version and --help are quick.
LATE_IMPORT = ": PLC0415"
REASON = re.compile(r"(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*|\[[\w-]+(,\s*[\w-]+)*\])\s*(-|#)\s*\S")


def test_every_silenced_check_names_itself_and_a_reason() -> None:
    wrong = [
        where(path, number)
        for path in EVERY
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (found := SILENCED.search(line))
        and not REASON.match(found["rest"])
        and not ("_cli" in path.parts and found["rest"].strip() == LATE_IMPORT)
    ]
    assert wrong == []


UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")


def test_nothing_is_unfinished() -> None:
    wrong = [
        where(path, number)
        for path in SHIPPED
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert wrong == []


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in TESTS if path.name not in {"__init__.py", "conftest.py"}]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_every_plugin_is_a_distribution_with_a_page_and_a_changelog() -> None:
    missing = [
        str((plugin.parent / name).relative_to(ROOT))
        for plugin in ROOT.glob("plugins/*/pyproject.toml")
        for name in ("README.md", "CHANGELOG.md", "tests")
        if not (plugin.parent / name).exists()
    ]
    assert missing == []


def test_the_lock_file_pins_by_hash_and_holds_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^([a-z][\w.-]*)==\S+.*?(?=^\S|\Z)", lock, flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(entries) > 20
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in lock
