"""The interface that every target passes the same tests for, and the choice by URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import unquote, urlsplit

from goud_backup.codec.encoding import Bytes
from goud_backup.errors import Damaged, TargetError
from goud_node.errors import ConfigurationError

_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_LONGEST_PREFIX = 800
"""Stores take names of 1,024 bytes; ours have fewer than 200."""
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a library makes of an answer, or an endpoint, that it does not expect."""


@dataclass(frozen=True)
class Stat:
    """One stored object: `size` in bytes, `version` changes with every write.

    `archived` names the storage class where its content cannot be read at once, and is empty anywhere else.
    """

    key: str
    size: int
    version: str
    archived: str = ""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"{self.key!r:.200} has a size of {self.size} bytes")


class Target(Protocol):
    """Objects of at most some tens of MiB under keys. Safe to use from several threads.

    Every method raises TargetError or one of its kinds (AccessRefused, TargetFull), naming the object.
    """

    url: str
    independent_clock: bool
    """Whether `now` is by a clock that none of the hosts that write here can set."""

    def put(self, key: str, data: Bytes, *, if_absent: bool = False, if_version: str | None = None) -> Stat:
        """Store, whole or not at all, durably; the store has checked the content against a checksum of ours.

        Raises PreconditionFailed when `if_absent` and there is one, or it no longer has `if_version`.
        """
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        """The bytes, or `length` of them from `start` (fewer at the end). Raises Missing.

        Never more than `length`, whatever the store sends: `whole` is for what may be larger than anybody wants.
        """
        ...

    def stat(self, key: str) -> Stat | None:
        """None when there is none."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[Stat]:
        """Everything whose key begins with `prefix` and is greater than `after`, in order of keys; no folder."""
        ...

    def delete(self, key: str) -> None:
        """Remove, an object or something unfinished; harmless when there is none."""
        ...

    def unfinished(self) -> Iterator[Stat]:
        """What writers that are under way, or were killed, have not finished. It is not an object."""
        ...

    def now(self) -> float | None:
        """Unix time as the store has it; None when it does not say."""
        ...

    def reserve(self, size: int) -> int:
        """Set so many bytes aside, as far as there is room, 0 to give them up; how many are set aside now.

        For who removes: that takes a little room first. A store that is never full sets nothing aside.
        """
        ...

    def create(self) -> None:
        """Make the place if that is ours to do (a directory); raise when it cannot be used."""
        ...

    def close(self) -> None: ...


_MOST_EMPTY = 100
"""Pages of one list with nothing in them: a store may skip what is being removed."""


class Pages:
    """The pages of one list. Each begins with something new, or a list without an end would hold up every verb."""

    def __init__(self, store: str, prefix: str) -> None:
        self._problem = f"{store} gives the same page of its list of {prefix or 'the bucket'} again"
        self._firsts: set[str] = set()
        self._empty = 0

    def note(self, first: str | None) -> None:
        """`first` of a page, None of an empty one. Raises TargetError."""
        if first is None:
            self._empty += 1
            first = f"{self._empty % _MOST_EMPTY} empty"
        if first in self._firsts:
            raise TargetError(f"{self._problem}: the list has no end. Check the store, and what answers in its name.")
        self._firsts.add(first)


def whole(target: Target, key: str, most: int) -> bytes | bytearray:
    """All of an object of at most `most` bytes. Raises Missing, and Damaged for a larger one, which is not read."""
    data = target.get(key, 0, most + 1)
    if len(data) > most:
        raise Damaged(
            f"{key} in {target.url} has more than {most} bytes, which this release never writes there: a later release "
            "wrote it, or it was replaced. Update goud-backup, or copy it back from another copy of the repository."
        )
    return data


def part_of(content_range: str | None, at: int, key: str) -> int | None:
    """How many bytes the whole has by the `content_range` of an answer from byte `at` on; None where it does not
    say. Raises TargetError for an answer that is not the part that was asked for.
    """
    if content_range is None and not at:
        return None
    match = None if content_range is None else _RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != at:
        raise TargetError(
            f"The store answers a part of {key}, from byte {at} on, with "
            f"{'all of it' if content_range is None else repr(content_range[:60])}: it is not usable."
        )
    return None if match[2] == "*" else int(match[2])


def check_key(key: str) -> str:
    """The key. Raises ValueError for one that could lead outside the repository."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a valid object name")
    return key


def seconds(date: str | None) -> float | None:
    """Unix time of an HTTP date; None for one that is missing or is not one."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


@contextmanager
def readable(where: str, *more: type[Exception]) -> Iterator[None]:
    """Raises TargetError, beginning with `where`, for what a library does not translate itself, and for `more`."""
    kinds: tuple[type[Exception], ...] = (*_UNREADABLE, *more)
    try:
        yield
    except kinds as error:
        raise TargetError(
            f"{where}: what it answers cannot be read ({error!r:.300}). Check the endpoint, and whether a proxy "
            "answers in the store's name."
        ) from error


def is_key(name: str) -> bool:
    """Whether a name that a store lists is one of ours: others have put things there, too."""
    return _KEY.fullmatch(name) is not None


def is_listed(key: str, after: str) -> bool:
    """Whether a bucket's list goes on to have this key: not every store honours where it is to begin, and consoles and
    sync tools put an empty object `forks/` where they show a folder.
    """
    return key > after and not key.endswith("/")


def check_prefix(prefix: str) -> str:
    """The prefix of a bucket. Raises ConfigurationError for one that tools would read in different ways."""
    parts = prefix.split("/") if prefix else []
    if not prefix.isprintable() or any(part in {"", ".", ".."} for part in parts):
        raise ConfigurationError(
            f"The prefix {prefix!r} in the repository URL is not usable: letters of any language and spaces are, but "
            "neither control characters nor empty parts, '.' or '..' between the slashes. Correct the URL."
        )
    if len(prefix.encode()) > _LONGEST_PREFIX:
        raise ConfigurationError(f"The prefix in the repository URL has more than {_LONGEST_PREFIX} bytes. Shorten it.")
    return prefix


def open_target(url: str) -> Target:
    """The target of a URL. The libraries of the clouds are imported only when they are asked for.

    Raises ConfigurationError for a URL that is none of ours or a library that is not installed.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a repository URL: {error}.") from error
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigurationError(f"The repository URL {url!r} has parts that do not belong there (?, #, user).")
    prefix = unquote(parts.path).strip("/")
    if parts.scheme == "file" and not parts.netloc and prefix:
        from goud_backup.targets.file import FileTarget  # noqa: PLC0415  # one target, one import

        if not prefix.isprintable() or "\N{REPLACEMENT CHARACTER}" in prefix:
            raise ConfigurationError(
                f"The path in {url!r} has characters that cannot be shown. Give one of letters, digits and spaces."
            )
        return FileTarget(f"/{prefix}")
    if parts.scheme in {"s3", "gs"} and parts.netloc:
        if not _BUCKET.fullmatch(parts.netloc):
            raise ConfigurationError(
                f"{parts.netloc!r} in the repository URL is not a bucket's name: that has letters, digits, dots, "
                "hyphens and underscores. Correct the URL."
            )
        return _cloud(parts.scheme, parts.netloc, check_prefix(prefix))
    raise ConfigurationError(
        f"{url!r} is not a repository URL. Use file:///path, s3://bucket/prefix or gs://bucket/prefix."
    )


def _cloud(scheme: str, bucket: str, prefix: str) -> Target:
    try:
        if scheme == "s3":
            from goud_backup.targets.s3 import S3Target  # noqa: PLC0415  # boto3 takes 0.2 s and 40 MB: only if needed

            return S3Target(bucket, prefix)
        from goud_backup.targets.gs import GsTarget  # noqa: PLC0415  # the same

        return GsTarget(bucket, prefix)
    except ImportError as error:
        package = {"s3": "boto3", "gs": "google-cloud-storage"}[scheme]
        raise ConfigurationError(f"{scheme}:// needs the Python package {package}: {error}. Install it.") from error
