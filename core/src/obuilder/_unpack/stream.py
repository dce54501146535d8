"""The bytes of an archive: hashed as they are read, decompressed, given out strictly in order.

tarfile's own stream cannot tell a whole archive from one that is cut off.
"""

import hashlib
import lzma
import os
import zlib
from collections.abc import Callable, Iterator

__all__ = ["ArchiveStream", "RefusedError", "corrupt", "truncated"]

_PIECE_BYTES = 1 << 20
_HEADER_LIMIT_BYTES = 16 << 20
"""All headers (names, attributes, sparse map) that one entry may have: 16 MiB."""
_XZ_MEMORY_BYTES = 512 << 20
"""What a decoder may use; `xz -9` asks for 65 MiB."""
_BLOCK = 512
_USTAR = slice(257, 262)

_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\0"
_UNSUPPORTED = (
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc ARCHIVE | gzip > ARCHIVE.tar.gz"),
    (b"BZh", "bzip2", "bzip2 -dc ARCHIVE | gzip > ARCHIVE.tar.gz"),
    (b"\x5d\0\0", "lzma", "xz -dc ARCHIVE | gzip > ARCHIVE.tar.gz"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc ARCHIVE | gzip > ARCHIVE.tar.gz"),
    (b"PK\x03\x04", "zip", "unpack it and make a tarball with `tar -c --numeric-owner`"),
)


class RefusedError(Exception):
    """An archive that cannot be unpacked: a stable `code`, what is wrong, what to do."""

    def __init__(self, code: str, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.hint = hint


def truncated(what: str) -> RefusedError:
    """The archive ends before it is complete."""
    return RefusedError(
        "archive.truncated", f"the archive is cut off: {what}", hint="make or fetch it again"
    )


def corrupt(what: str) -> RefusedError:
    """The archive holds what no archive may hold."""
    return RefusedError("archive.corrupt", what, hint="make or fetch it again")


class ArchiveStream:
    """What tarfile reads from: forwards only, from a descriptor that may be a pipe."""

    def __init__(self, descriptor: int, compression: str) -> None:
        self._raw = _Raw(descriptor)
        self._pieces = _decoded(self._raw, compression)
        self._piece = memoryview(b"")
        self._position = 0
        self._header_bytes = 0
        self.last = b""
        """What `read` returned last: the block that tarfile stopped at."""
        self.ended = False
        """Whether a read came to the end before it had what it wanted."""

    def take(self, limit: int) -> memoryview:
        """The next bytes, at least one and at most `limit`; empty at the end."""
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        part = self._piece[:limit]
        self._piece = self._piece[limit:]
        self._position += len(part)
        return part

    def read(self, size: int) -> bytes:
        """`size` bytes of header, fewer at the end."""
        self._header_bytes += max(0, size)
        if size < 0 or self._header_bytes > _HEADER_LIMIT_BYTES:
            raise corrupt(f"a header at byte {self._position} claims a length of {size} bytes")
        parts = []
        while size and (part := self.take(size)):
            parts.append(part)
            size -= len(part)
        self.ended = self.ended or size > 0
        self.last = b"".join(parts)
        return self.last

    def begin_entry(self) -> None:
        """The headers that follow are another entry's."""
        self._header_bytes = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int) -> None:
        """Skip forward. A header that sends the reader back would loop for ever."""
        if offset < self._position:
            raise corrupt(f"a header before byte {self._position} points backwards")
        while self._position < offset:
            if not self.take(offset - self._position):
                raise truncated(f"an entry's data should go on to byte {offset}")

    def close(self) -> None:
        """Nothing: tarfile wants the method, the descriptor is the process's own."""

    def finish(self) -> str:
        """Check that nothing but zeros follows; SHA-256 of all raw bytes, lower-case hex.

        Reads to the end, for only there do gzip and xz keep their checksums.
        """
        while part := self.take(_PIECE_BYTES):
            if bytes(part).strip(b"\0"):
                raise corrupt(f"data follows the end of the archive near byte {self._position}")
        return self._raw.digest.hexdigest()


class _Raw:
    """The descriptor's bytes, hashed once each, with room to put some back."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = b""
        # Made now: OpenSSL reads its configuration and modules when first used.
        self.digest = hashlib.sha256()

    def read(self) -> bytes:
        """Some bytes; empty at the end."""
        held, self._held = self._held, b""
        return held or self._fetch()

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end, left where they are."""
        while len(self._held) < size and (more := self._fetch()):
            self._held += more
        return self._held[:size]

    def unread(self, data: bytes) -> None:
        self._held = data + self._held

    def skip_zeros(self) -> None:
        while data := self.read():
            if rest := data.lstrip(b"\0"):
                self.unread(rest)
                return

    def _fetch(self) -> bytes:
        try:
            data = os.read(self._descriptor, _PIECE_BYTES)
        except OSError as error:
            raise RefusedError(
                "archive.unreadable", f"cannot read the archive: {error.strerror}"
            ) from error
        self.digest.update(data)
        return data


def _decoded(raw: _Raw, compression: str) -> Iterator[bytes]:
    """Pieces of the tar stream, none of them empty."""
    head = raw.peek(_BLOCK)
    if not head:
        raise truncated("it is empty")
    found = _detect(head)
    if compression not in ("auto", found):
        raise corrupt(f"the archive is not {compression} data")
    yield from _DECODERS[found](raw)


def _detect(head: bytes) -> str:
    if head[_USTAR] == b"ustar":  # whatever the first entry is called
        return "none"
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_XZ_MAGIC):
        return "xz"
    for magic, name, command in _UNSUPPORTED:
        if head.startswith(magic):
            raise RefusedError(
                "archive.unsupported",
                f"the archive is {name} data; tar files plain, gzip or xz can be read",
                hint=f"convert it: {command}",
            )
    return "none"


def _plain(raw: _Raw) -> Iterator[bytes]:
    while data := raw.read():
        yield data


def _gunzip(raw: _Raw) -> Iterator[bytes]:
    """All members; zeros and garbage after the last are ignored, as gzip itself does."""
    while raw.peek(len(_GZIP_MAGIC)) == _GZIP_MAGIC:
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while not member.eof:
            data = member.unconsumed_tail or raw.read()
            try:
                piece = member.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise corrupt(f"the gzip data is damaged: {error}") from error
            if piece:
                yield piece
            elif not data:
                raise truncated("the gzip data has no end")
        raw.unread(member.unused_data)
        raw.skip_zeros()
    while raw.read():
        pass  # the hash is over the garbage too


def _unxz(raw: _Raw) -> Iterator[bytes]:
    """All streams; zeros may follow each, anything else is damage."""
    while head := raw.peek(len(_XZ_MAGIC)):
        if head != _XZ_MAGIC:
            raise corrupt("data follows the end of the xz data")
        stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
        while not stream.eof:
            wanted = stream.needs_input
            data = raw.read() if wanted else b""
            try:
                piece = stream.decompress(data, _PIECE_BYTES)
            except lzma.LZMAError as error:
                raise _xz_refused(error) from error
            if piece:
                yield piece
            elif wanted and not data:
                raise truncated("the xz data has no end")
        raw.unread(stream.unused_data)
        raw.skip_zeros()


def _xz_refused(error: lzma.LZMAError) -> RefusedError:
    if "limit" in str(error):
        return RefusedError(
            "archive.unsupported",
            f"the xz data needs more than {_XZ_MEMORY_BYTES >> 20} MiB of memory",
            hint="compress it again with `xz -9` or less",
        )
    return corrupt(f"the xz data is damaged: {error}")


_DECODERS: dict[str, Callable[[_Raw], Iterator[bytes]]] = {
    "none": _plain,
    "gzip": _gunzip,
    "xz": _unxz,
}
