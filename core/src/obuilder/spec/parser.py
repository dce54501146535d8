"""Text to a stage: the grammar of specs, and that each `copy` names a stage in scope."""

from collections import Counter
from collections.abc import Callable, Iterable

from obuilder.errors import SpecError
from obuilder.spec._expect import Expect, Fields, shown
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
    Stage,
    UnixUser,
    User,
    WindowsUser,
    Workdir,
)
from obuilder.spec.reader import parse_sexps
from obuilder.spec.sexp import Node
from obuilder.spec.writer import MAX_STAGE_DEPTH

__all__ = ["Review", "parse", "parse_all"]

Review = Callable[[Op], Iterable[str]]
"""What is wrong with an op that the grammar allows."""

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
_STAGE = "a stage: ((from BASE) OP...)"
_ITEM = "(build NAME STAGE) or (from BASE)"
_OP = 'an op, such as (run (shell "make all"))'
_USER = "(user (uid N) (gid N)) or (user (name NAME))"
_QUOTES = "text with blanks goes in quotes"
_PAIRS = "a list of options ((KEY VALUE)...)"


def parse(text: bytes, *, file: str = "<spec>") -> Stage:
    """The one stage in `text`; SpecError says what is wrong and where in `file`.

    Codes: `spec.syntax`, `spec.too-deep` (lists over 1000 deep, stages over 100),
    `spec.unknown-op`, `spec.unknown-field`, `spec.missing-field`,
    `spec.duplicate-field`, `spec.unknown-stage`, `spec.invalid` for the rest.
    """
    return _one_stage(text, Expect(file))


def parse_all(text: bytes, *, file: str = "<spec>", review: Review) -> tuple[SpecError, ...]:
    """Every error in `text`, in its order, and what `review` says of each op.

    Each op is read on its own; of text that is no S-expression the first error is told.
    """
    found: list[SpecError] = []
    try:
        _one_stage(text, Expect(file, found=found), review=review)
    except SpecError as error:
        found.append(error)
    return tuple(sorted(found, key=_position))


def _position(error: SpecError) -> tuple[int, ...]:
    return tuple(int(number) for number in (error.where or "").rsplit(":", 2)[1:])


def _one_stage(text: bytes, expect: Expect, *, review: Review | None = None) -> Stage:
    nodes = parse_sexps(text, file=expect.file)
    if not nodes:
        raise expect.error(Node((), 1, 1), f"found nothing, expected {_STAGE}")
    if len(nodes) > 1:
        expect.report(
            expect.unlike(
                nodes[1],
                "the end of the file after the stage",
                hint="the parentheses before it may close too early",
            )
        )
    return _Parser(expect, review).stage(nodes[0])


class _Scope:
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


class _Parser:
    def __init__(self, expect: Expect, review: Review | None) -> None:
        self._expect = expect
        self._review = review
        self._ops: dict[str, Callable[[Node, tuple[Node, ...]], Op]] = {
            "comment": self._comment,
            "copy": self._copy,
            "env": self._env,
            "run": self._run,
            "shell": self._shell,
            "user": self._user,
            "workdir": self._workdir,
        }
        self._scope = _Scope()
        self._depth = 0

    def stage(self, node: Node) -> Stage:
        if self._depth > MAX_STAGE_DEPTH:
            raise self._expect.error(
                node, f"found stages more than {MAX_STAGE_DEPTH} deep", code="spec.too-deep"
            )
        outer_scope = len(self._scope.names)
        self._depth += 1
        try:
            return self._items(node, self._expect.items(node, _STAGE))
        finally:
            self._scope.shrink(outer_scope)
            self._depth -= 1

    def _items(self, stage: Node, items: tuple[Node, ...]) -> Stage:
        attempt = self._expect.attempt
        builds: list[tuple[str, Stage]] = []
        for index, item in enumerate(items):
            if _is_tagged(item, "from"):
                base = attempt(self._from, item)
                ops = [attempt(self._op, op) for op in items[index + 1 :]]
                # What could not be read has been told of, and then nobody takes the stage.
                return Stage(
                    from_=base or "",
                    ops=tuple(op for op in ops if op is not None),
                    builds=tuple(builds),
                )
            build = attempt(self._build, item)
            if build is not None:
                builds.append(build)
        raise self._expect.error(
            stage,
            "found a stage without (from BASE), expected one",
            hint="it comes after the builds and before the ops",
            code="spec.missing-field",
        )

    def _from(self, node: Node) -> str:
        _, args = self._expect.tagged(node, _ITEM)
        return self._only(node, args, "(from BASE)")

    def _build(self, node: Node) -> tuple[str, Stage]:
        tag, args = self._expect.tagged(node, _ITEM)
        if tag != "build":
            hint = "ops come after (from BASE)" if tag in self._ops else None
            raise self._expect.unlike(node, _ITEM, hint=hint)
        if len(args) != 2:  # noqa: PLR2004 - a name and a stage
            raise self._expect.unlike(node, "(build NAME STAGE)")
        name = self._expect.atom(args[0], "the name of a stage")
        try:
            return name, self.stage(args[1])
        finally:
            # Also if it is wrong: a copy from it is not.
            self._scope.add(name)

    def _op(self, node: Node) -> Op:
        tag, args = self._expect.tagged(node, _OP)
        if tag in self._ops:
            op = self._ops[tag](node, args)
            if self._review is not None:
                for problem in self._review(op):
                    self._expect.report(self._expect.error(node, problem, code="spec.impossible"))
            return op
        if tag in {"from", "build"}:
            rule = "there is one (from BASE), and every build comes before it"
            raise self._expect.error(
                node, f"found {shown(node)}, expected an op", hint=rule, code="spec.unknown-op"
            )
        raise self._expect.unknown(node, "op", tuple(self._ops), code="spec.unknown-op")

    def _comment(self, node: Node, args: tuple[Node, ...]) -> Op:
        return Comment(self._only(node, args, "(comment TEXT)"))

    def _workdir(self, node: Node, args: tuple[Node, ...]) -> Op:
        return Workdir(self._only(node, args, "(workdir DIR)"))

    def _shell(self, _node: Node, args: tuple[Node, ...]) -> Op:
        return Shell(self._atoms(args, "a word of (shell ARG...)"))

    def _env(self, node: Node, args: tuple[Node, ...]) -> Op:
        if len(args) != 2:  # noqa: PLR2004 - a name and a value
            raise self._expect.unlike(
                node, "(env NAME VALUE)", hint=_QUOTES if len(args) > 1 else None
            )
        name, value = self._atoms(args, "text in (env NAME VALUE)")
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
                return User(UnixUser(uid=self._integer(uid), gid=self._integer(gid)))
        hint = "uid comes before gid" if {"uid", "gid"} == {tag for tag, _ in pairs} else None
        raise self._expect.unlike(node, _USER, hint=hint)

    def _run(self, node: Node, args: tuple[Node, ...]) -> Op:
        fields = self._expect.fields(node, args, _RUN)
        return Run(
            shell=self._expect.atom(fields["shell"][0], "a command, (shell COMMAND)"),
            cache=tuple(self._cache(item) for item in fields.get("cache", ())),
            network=self._atoms(fields.get("network", ()), "the name of a network"),
            secrets=tuple(self._secret(item) for item in fields.get("secrets", ())),
        )

    def _copy(self, node: Node, args: tuple[Node, ...]) -> Op:
        fields = self._expect.fields(node, args, _COPY)
        return Copy(
            src=self._atoms(fields["src"], "a path in (src PATH...)"),
            dst=self._expect.atom(fields["dst"][0], "a path in (dst PATH)"),
            exclude=self._atoms(fields.get("exclude", ()), "a name in (exclude NAME...)"),
            from_=self._source(fields["from"][0]) if "from" in fields else None,
        )

    def _source(self, node: Node) -> str | None:
        expected = "where to copy from: context or (build NAME)"
        if node.value == "context":
            return None
        tag, args = self._expect.tagged(node, expected)
        if tag != "build" or len(args) != 1:
            raise self._expect.unlike(node, expected)
        name = self._expect.atom(args[0], "the name of a stage")
        if not self._scope.uses[name]:
            choices = tuple(dict.fromkeys(reversed(self._scope.names)))
            raise self._expect.unknown(args[0], "stage", choices, code="spec.unknown-stage")
        return name

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
                key, value = self._atoms(words, "text in an option (KEY VALUE)")
                options.append((key, value))
        target = self._expect.atom(fields["target"][0], "a path in (target PATH)")
        return name, target, tuple(options)

    def _integer(self, node: Node) -> int:
        text = self._expect.atom(node, "an integer")
        value = parse_integer(text)
        if value is None:
            raise self._expect.unlike(node, "an integer of up to 63 bits")
        return value

    def _only(self, node: Node, args: tuple[Node, ...], form: str) -> str:
        if len(args) != 1:
            raise self._expect.error(
                node,
                f"found {len(args)} values in {shown(node)}, expected one: {form}",
                hint=_QUOTES if args else None,
            )
        return self._expect.atom(args[0], form)

    def _atoms(self, nodes: tuple[Node, ...], expected: str) -> tuple[str, ...]:
        return tuple(self._expect.atom(node, expected) for node in nodes)


def _is_tagged(node: Node, tag: str) -> bool:
    return isinstance(node.value, tuple) and bool(node.value) and node.value[0].value == tag
