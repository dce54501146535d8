"""Who a USER or a --chown means: numbers, or root. Other names only the image knows."""

import re

from obuilder.spec.ast import UnixUser, WindowsUser
from obuilder.spec.from_dockerfile.refusals import no_equal, wrong

__all__ = ["chown_owner", "run_user"]

_LARGEST = 2**32 - 2


def run_user(text: str, *, windows: bool) -> UnixUser | WindowsUser:
    """The user of a USER. Without a group Docker looks it up, but root's is known."""
    name, colon, group = text.partition(":")
    if windows and not re.fullmatch(r"\d+|root", name):
        return WindowsUser(name=text)
    uid = _number(name, "user")
    if colon:
        return UnixUser(uid=uid, gid=_number(group, "group"))
    if uid == 0:
        return UnixUser(uid=0, gid=0)
    raise no_equal(
        f"USER {text} has no group: Docker looks it up in the image's /etc/passwd",
        f"write USER {text}:GID",
    )


def chown_owner(text: str) -> UnixUser:
    """The owner of a --chown; without a group its number is the user's."""
    name, colon, group = text.partition(":")
    uid = _number(name, "user")
    return UnixUser(uid=uid, gid=_number(group, "group") if colon else uid)


def _number(text: str, what: str) -> int:
    if text == "root":
        return 0
    if not text:
        raise wrong(f"a {what} that is blank")
    if not re.fullmatch("[0-9]+", text):
        raise no_equal(
            f"the {what} {text[:60]!r} is a name, and a spec takes numbers: "
            "only the image knows which",
            "write its number, as in 1000:1000",
        )
    if len(text.lstrip("0")) > len(str(_LARGEST)) or int(text[-10:]) > _LARGEST:
        raise wrong(f"the {what} {text[:60]} is more than {_LARGEST}")
    return int(text[-10:])
