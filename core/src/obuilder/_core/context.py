"""What ops change for later ops: environment, working directory, user, shell."""

from dataclasses import dataclass, replace
from typing import Self

from obuilder.errors import BuildError
from obuilder.spec import ast
from obuilder.types import ROOT, Env, User

__all__ = ["Context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The state of one stage between two ops; `env` has the newest binding first."""

    shell: tuple[str, ...]
    env: Env = ()
    workdir: str = "/"
    user: ast.UnixUser | ast.WindowsUser = ast.UnixUser(uid=ROOT.uid, gid=ROOT.gid)  # noqa: RUF009 - frozen

    def after(self, op: ast.Op) -> Self:
        """The context once `op` has been passed; steps leave it as it is."""
        match op:
            case ast.Workdir(path):
                return replace(self, workdir=self.join(path))
            case ast.Shell(argv):
                return replace(self, shell=argv)
            case ast.User(user):
                return replace(self, user=user)
            case ast.Env(name, value):
                others = tuple(pair for pair in self.env if pair[0] != name)
                return replace(self, env=((name, value), *others))
        return self

    def join(self, path: str) -> str:
        """`path` seen from the working directory, joined by a single `/`, not normalised."""
        if path.startswith("/"):
            return path
        return f"{self.workdir.rstrip('/')}/{path}"

    def unix_user(self) -> User:
        """The user as numbers. BuildError if it has none, or such that no kernel takes."""
        if isinstance(self.user, ast.WindowsUser):
            raise BuildError(
                f"user {self.user.name!r} is a Windows user; this sandbox runs Linux images",
                code="user.windows",
                hint="use (user (uid N) (gid N))",
            )
        for word, number in (("uid", self.user.uid), ("gid", self.user.gid)):
            if not 0 <= number <= ast.LARGEST_USER_ID:
                raise BuildError(
                    f"{word} {number} is outside 0 to {ast.LARGEST_USER_ID}",
                    code="user.out-of-range",
                )
        return User(uid=self.user.uid, gid=self.user.gid)
