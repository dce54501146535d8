"""How names of caches become file names, and are read back."""

import hashlib
import re
from dataclasses import dataclass

__all__ = ["CacheNaming", "escape_name", "unescape_name"]

_LONGEST = 200
_KEPT = 150
_DIGEST_BYTES = 1 + 2 * hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheNaming:
    """How the names of caches become file names: bytes outside `[-._A-Za-z0-9]` as `%xx`.

    With a prefix (btrfs: `c-`) a leading dot stays, as OBuilder has it; without
    one it is escaped, and the empty name is `%`, which nothing else becomes. A
    name over 200 bytes escaped keeps its first 150 and a SHA-256 of the whole.
    """

    prefix: str = ""
    mark: str = "%"
    """What stands before the two digits: `:` where the file system knows no `%`."""
    room_bytes: int = 255
    """The most that a file name may take, prefix included; at least 80."""

    def escape(self, name: str) -> str:
        """A cache's file name."""
        raw, mark = name.encode("utf-8", "surrogateescape"), self.mark.encode()
        escaped = re.sub(rb"[^-._A-Za-z0-9]", lambda m: b"%s%02x" % (mark, m.group()[0]), raw)
        text = escaped.decode()
        if not self.prefix:
            if text.startswith("."):
                text = f"{self.mark}2e{text[1:]}"
            text = text or self.mark
        room = self.room_bytes - len(self.prefix)
        if len(text) > min(_LONGEST, room):
            kept = min(_KEPT, room - _DIGEST_BYTES)
            text = f"{text[:kept]}-{hashlib.sha256(raw).hexdigest()}"
        return self.prefix + text

    def unescape(self, file_name: str) -> str:
        """The cache's name; of a shortened one, what can be read of it."""
        escaped = file_name.removeprefix(self.prefix)
        if escaped == self.mark:
            return ""
        pattern = re.escape(self.mark.encode()) + rb"([0-9a-f]{2})"
        raw = re.sub(pattern, lambda m: bytes([int(m.group(1), 16)]), escaped.encode())
        return raw.decode("utf-8", "surrogateescape")


def escape_name(name: str, *, prefix: str = "") -> str:
    """A cache's file name by the usual naming."""
    return CacheNaming(prefix=prefix).escape(name)


def unescape_name(file_name: str, *, prefix: str = "") -> str:
    """The name of the cache that a file name is of."""
    return CacheNaming(prefix=prefix).unescape(file_name)
