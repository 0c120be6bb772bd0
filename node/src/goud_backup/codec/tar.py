"""Reading a tar strictly, as a stream: members of two kinds, each with a name and a size that are bounded before use.

The standard library's reader keeps every header, takes names of any length into memory, writes out sparse members and
has looped for ever at sizes below zero. What this one does not know it refuses by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from goud_backup.errors import Damaged

_BLOCK: Final = 512
_CHUNK: Final = 1024 * 1024
_MOST_MEMBERS: Final = 100_000
_MOST_NAME: Final = 1024
_MOST_NAMES: Final = 8 * 1024 * 1024
"""Bytes of all names together: they are kept, to see that none is there twice, and take up to four times as much."""
_MOST_EXTENSION: Final = 64 * 1024
_MOST_PADDING: Final = 1024 * 1024
"""Zeros after the end: writers fill up a record."""
_OCTAL: Final = re.compile(rb" *([0-7]{1,12})[ \0]*")
_DIGITS: Final = re.compile(rb"[0-9]{1,9}")
_FILES: Final = (b"0", b"\0")
_FOLDER: Final = b"5"
_LONG_NAME: Final = b"L"
_EXTENSION: Final = b"x"
_HARMLESS: Final = frozenset({"mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"})
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


class Stream(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Member:
    name: str
    size: int
    folder: bool


class Tar:
    """`title` names the tar in messages. Every method raises Damaged."""

    def __init__(self, stream: Stream, title: str) -> None:
        self._stream = stream
        self._title = title
        self._remainder = 0
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Each member in turn, whatever was read of the one before; names are unique."""
        names: set[str] = set()
        size = 0
        for _ in range(_MOST_MEMBERS):
            member = self._next()
            if member is None:
                self._end()
                return
            if not member.folder and member.name in names:
                raise self.refused(f"holds {member.name!r} twice")
            names.add(member.name)
            size += len(member.name.encode())
            if size > _MOST_NAMES:
                raise self.refused(f"has names of more than {_MOST_NAMES} bytes together")
            yield member
        raise self.refused(f"holds more than {_MOST_MEMBERS} members")

    def chunks(self) -> Iterator[bytes]:
        """What is left of the current member."""
        while self._remainder:
            data = self._read(min(_CHUNK, self._remainder))
            self._remainder -= len(data)
            yield data

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes of the current member, so that a tar within it can be read."""
        data = self._read(min(size, self._remainder)) if self._remainder and size else b""
        self._remainder -= len(data)
        return data

    def refused(self, why: str) -> Damaged:
        """The error for what this tar holds."""
        return Damaged(f"{self._title} {why}: it is damaged, or no backup. Nothing was taken from it.")

    def _next(self) -> Member | None:
        long_name: str | None = None
        extension: dict[str, str] | None = None
        while True:
            for _ in self.chunks():
                pass
            self._exactly(self._padding)
            header = self._exactly(_BLOCK)
            if not any(header):
                self._padding = 0
                return None
            field, size, kind = self._fields(header)
            if kind == _LONG_NAME and long_name is None:
                long_name = self._text(self._short(size, _MOST_NAME + 1, "a name").rstrip(b"\0"))
            elif kind == _EXTENSION and extension is None:
                extension = self._records(self._short(size, _MOST_EXTENSION, "an extension"))
            else:
                break
        extension = extension or {}
        # A header has the first 100 bytes of a longer name, which may end within a character.
        name, size = self._properties(long_name or extension.get("path") or self._text(field), size, extension)
        if kind not in {*_FILES, _FOLDER}:
            raise self.refused(f"holds {name!r}, {_KINDS.get(kind, f'a member of the kind {kind!r}')}")
        if kind == _FOLDER and size:
            raise self.refused(f"holds a folder {name!r} with content")
        self._expect(size)
        return Member(name, size, kind == _FOLDER)

    def _fields(self, header: bytes) -> tuple[bytes, int, bytes]:
        total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
        if header[257:262] != b"ustar" or self._number(header[148:156]) != total:
            raise self.refused("has a member without a valid header")
        name = header[:100].split(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345] != 0:
            name = header[345:500].split(b"\0")[0] + b"/" + name
        return name, self._number(header[124:136]), header[156:157]

    def _properties(self, name: str, size: int, extension: dict[str, str]) -> tuple[str, int]:
        for key, value in extension.items():
            if key == "path":
                name = value
            elif key == "size":
                if not _DIGITS.fullmatch(value.encode()):
                    raise self.refused(f"gives {name[:100]!r} the size {value[:100]!r}")
                size = int(value)
            elif key not in _HARMLESS:
                raise self.refused(f"holds {name[:100]!r} with the unknown property {key[:100]!r}")
        if not name or len(name) > _MOST_NAME:
            raise self.refused(f"has a member with a name of {len(name)} characters")
        return name, size

    def _records(self, text: bytes) -> dict[str, str]:
        records: dict[str, str] = {}
        while text:
            length, _, _ = text.partition(b" ")
            size = int(length) if _DIGITS.fullmatch(length) else 0
            record = text[len(length) + 1 : size]
            if not record.endswith(b"\n") or len(text) < size or b"=" not in record:
                raise self.refused("has a damaged extension of a member")
            key, _, value = record[:-1].partition(b"=")
            records[self._text(key)] = self._text(value)
            text = text[size:]
        return records

    def _number(self, field: bytes) -> int:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        match = _OCTAL.fullmatch(field)
        if match is None:
            raise self.refused(f"has a header with the number {field!r}")
        return int(match[1], 8)

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.refused(f"holds {raw[:100]!r}, a name that is not UTF-8") from None

    def _short(self, size: int, most: int, part: str) -> bytes:
        if size > most:
            raise self.refused(f"has {part} of {size} bytes")
        self._expect(size)
        return b"".join(self.chunks())

    def _expect(self, size: int) -> None:
        self._remainder, self._padding = size, -size % _BLOCK

    def _end(self) -> None:
        rest = 0
        while data := self._stream.read(_CHUNK):
            rest += len(data)
            if any(data) or rest > _MOST_PADDING:
                raise self.refused("goes on after its end")

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self._read(size - len(data))
        return data

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data:
            raise Damaged(f"{self._title} is damaged or cut short: it ends within a member.")
        return data
