"""The ops of a stage: what each may hold, field by field."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from obuilder.spec._expect import QUOTES, Expect, Fields, ToldError
from obuilder.spec._integer import parse_integer
from obuilder.spec.ast import (
    Cache,
    Comment,
    Copy,
    Env,
    Op,
    Run,
    SecretMount,
    Shell,
    UnixUser,
    User,
    WindowsUser,
    Workdir,
)
from obuilder.spec.sexp import Node

__all__ = ["Ops", "Scope"]

_RUN = Fields(
    owner="run",
    inline=("cache", "network", "secrets"),
    single=("shell",),
    required=("shell",),
    example='a run is written (run (shell "make all"))',
)
_COPY = Fields(
    owner="copy",
    inline=("src", "exclude"),
    single=("from", "dst"),
    required=("src", "dst"),
    example="a copy is written (copy (src a.txt dir) (dst /srv/))",
)
_CACHE = Fields(
    owner="cache",
    single=("target", "buildkit_options"),
    required=("target",),
    example="a cache is written (cache (apt (target /var/cache/apt)))",
)
_SECRET = Fields(
    owner="secret",
    single=("target", "buildkit_options"),
    required=("target",),
    example="a secret is written (secrets (token (target /run/secrets/token)))",
)
_USER = "(user (uid N) (gid N)) or (user (name NAME))"
_PAIRS = "a list of options ((KEY VALUE)...)"


class Scope:
    """The stages that a `copy` may name here, in the order written; a name may come twice."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.uses: Counter[str] = Counter()

    def add(self, name: str) -> None:
        self.names.append(name)
        self.uses[name] += 1

    def shrink(self, length: int) -> None:
        self.uses.subtract(self.names[length:])
        del self.names[length:]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a copy takes from: a stage by name, or None for the source directory."""

    stage: str | None


class Ops:
    """Reads ops, each by the word that it begins with."""

    def __init__(self, expect: Expect, scope: Scope) -> None:
        self._expect = expect
        self._scope = scope
        self.by_tag: dict[str, Callable[[Node, tuple[Node, ...]], Op]] = {
            "comment": self._comment,
            "copy": self._copy,
            "env": self._env,
            "run": self._run,
            "shell": self._shell,
            "user": self._user,
            "workdir": self._workdir,
        }

    def _comment(self, node: Node, args: tuple[Node, ...]) -> Op:
        return Comment(self._expect.only(node, args, "(comment TEXT)"))

    def _workdir(self, node: Node, args: tuple[Node, ...]) -> Op:
        return Workdir(self._expect.only(node, args, "(workdir DIR)"))

    def _shell(self, _node: Node, args: tuple[Node, ...]) -> Op:
        return Shell(self._expect.atoms(args, "a word of (shell ARG...)"))

    def _env(self, node: Node, args: tuple[Node, ...]) -> Op:
        if len(args) != 2:  # noqa: PLR2004 - a name and a value
            raise self._expect.unlike(
                node, "(env NAME VALUE)", hint=QUOTES if len(args) > 1 else None
            )
        name, value = self._expect.atoms(args, "text in (env NAME VALUE)")
        return Env(name, value)

    def _user(self, node: Node, args: tuple[Node, ...]) -> Op:
        pairs: list[tuple[str, Node]] = []
        for arg in args:
            tag, values = self._expect.tagged(arg, _USER)
            if len(values) != 1:
                raise self._expect.unlike(arg, _USER)
            pairs.append((tag, values[0]))
        match pairs:
            case [("name", name)]:
                return User(WindowsUser(name=self._expect.atom(name, "the name of a user")))
            case [("uid", uid), ("gid", gid)]:
                numbers = self._expect.each(self._integer, (uid, gid))
                if len(numbers) != 2:  # noqa: PLR2004 - both
                    raise ToldError
                return User(UnixUser(uid=numbers[0], gid=numbers[1]))
        hint = "uid comes before gid" if {"uid", "gid"} == {tag for tag, _ in pairs} else None
        raise self._expect.unlike(node, _USER, hint=hint)

    def _run(self, node: Node, args: tuple[Node, ...]) -> Op:
        expect = self._expect
        fields = expect.fields(node, args, _RUN)
        cache = expect.each(self._cache, fields.get("cache", ()))
        network = self._expect.atoms(fields.get("network", ()), "the name of a network")
        secrets = expect.each(self._secret, fields.get("secrets", ()))
        shell = expect.atom(expect.value(fields, "shell"), "a command, (shell COMMAND)")
        return Run(shell=shell, cache=cache, network=network, secrets=secrets)

    def _copy(self, node: Node, args: tuple[Node, ...]) -> Op:
        expect = self._expect
        fields = expect.fields(node, args, _COPY)
        sources = expect.each(self._source, fields.get("from", ()))
        src = self._expect.atoms(fields.get("src", ()), "a path in (src PATH...)")
        exclude = self._expect.atoms(fields.get("exclude", ()), "a name in (exclude NAME...)")
        dst = expect.atom(expect.value(fields, "dst"), "a path in (dst PATH)")
        expect.value({"src": (node,)} if "src" in fields else {}, "src")
        return Copy(src=src, dst=dst, exclude=exclude, from_=sources[0].stage if sources else None)

    def _source(self, node: Node) -> "_Source":
        expected = "where to copy from: context or (build NAME)"
        if node.value == "context":
            return _Source(None)
        tag, args = self._expect.tagged(node, expected)
        if tag != "build" or len(args) != 1:
            raise self._expect.unlike(node, expected)
        name = self._expect.atom(args[0], "the name of a stage")
        if not self._scope.uses[name]:
            choices = tuple(dict.fromkeys(reversed(self._scope.names)))
            raise self._expect.unknown(args[0], "stage", choices, code="spec.unknown-stage")
        return _Source(name)

    def _cache(self, node: Node) -> Cache:
        name, target, options = self._mount(node, _CACHE)
        return Cache(id=name, target=target, buildkit_options=options)

    def _secret(self, node: Node) -> SecretMount:
        name, target, options = self._mount(node, _SECRET)
        return SecretMount(id=name, target=target, buildkit_options=options)

    def _mount(self, node: Node, known: Fields) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        name, args = self._expect.tagged(node, f"a {known.owner}: (NAME (target PATH))")
        fields = self._expect.fields(node, args, known)
        options: list[tuple[str, str]] = []
        for given in fields.get("buildkit_options", ()):
            for pair in self._expect.items(given, _PAIRS):
                words = self._expect.items(pair, "an option (KEY VALUE)")
                if len(words) != 2:  # noqa: PLR2004 - a key and a value
                    raise self._expect.unlike(pair, "an option (KEY VALUE)")
                key, value = self._expect.atoms(words, "text in an option (KEY VALUE)")
                options.append((key, value))
        target = self._expect.atom(self._expect.value(fields, "target"), "a path in (target PATH)")
        return name, target, tuple(options)

    def _integer(self, node: Node) -> int:
        text = self._expect.atom(node, "an integer")
        value = parse_integer(text)
        if value is None:
            raise self._expect.unlike(node, "an integer of up to 63 bits")
        return value
