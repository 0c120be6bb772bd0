"""Google Cloud Storage through Google's own library."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Lock, local
from typing import Any

import requests.exceptions
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from goud_backup.codec.encoding import Bytes
from goud_backup.errors import AccessRefused, Missing, PreconditionFailed, TargetError
from goud_backup.targets.base import Pages, Stat, check_key, is_listed, part_of, readable, seconds
from goud_backup.targets.pace import CutOff, paced

_SECONDS = 60
_PAGE = 1000
Headers = Mapping[str, str]
"""Headers of an answer."""
_PATIENCE = DEFAULT_RETRY.with_timeout(120.0)
"""Content-addressed writes and conditional ones may be repeated without harm, so every call is."""


class GsTarget:
    """Objects below `prefix` of a bucket. Credentials are the application default, as Google's library has it."""

    independent_clock = True

    def __init__(self, bucket: str, prefix: str) -> None:
        self.url = f"gs://{bucket}/{prefix}".rstrip("/")
        self._name_of_bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._open: Any = None
        self._date: str | None = None
        self._answer = _Answer()
        self._opening = Lock()

    @property
    def _bucket(self) -> Any:
        with self._opening:
            if self._open is None:
                client = _connect()
                client._http.hooks["response"].append(self._note)
                self._open = client.bucket(self._name_of_bucket)
            return self._open

    def _note(self, response: Any, **_: object) -> None:
        # The library shows no headers of what it was answered. It is called from many threads.
        self._date = response.headers.get("date")
        # A download that breaks off is gone on with by the library: the first answer says what it is of.
        if response.status_code in {200, 206} and not self._answer.headers:
            self._answer.headers = response.headers
        response.raw.stream = partial(_stream, response.raw, response.raw.stream)

    def create(self) -> None:
        with self._errors("reach", "the bucket"):
            # Listing needs the permission that every run needs; reading the bucket itself needs one more.
            next(iter(self._bucket.list_blobs(prefix=self._prefix, max_results=1, timeout=_SECONDS)), None)

    def put(self, key: str, data: Bytes, *, if_absent: bool = False, if_version: str | None = None) -> Stat:
        body = data if isinstance(data, bytes) else bytes(data)
        more: dict[str, int] = {}
        if if_absent:
            more["if_generation_match"] = 0
        elif if_version is not None:
            more["if_generation_match"] = int(if_version)
        name = self._name(key)
        with self._errors("write", key):
            blob = self._bucket.blob(name)
            blob.upload_from_string(
                body,
                content_type="application/octet-stream",
                checksum="crc32c",
                timeout=_SECONDS,
                retry=_PATIENCE,
                **more,
            )
            if blob.size != len(body):
                raise TargetError(f"{self.url} stored {blob.size} of {len(body)} bytes of {key}. Try again.")
            return _stat(key, blob)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        reading = _Reading(key, start, length)
        while not reading.whole:
            reading.take(*self._part(reading))
        return reading.data

    def _part(self, reading: _Reading) -> tuple[bytes, Headers]:
        """What the store answers to a call for what is left, and what it says of that."""
        name = self._name(reading.key)
        with self._errors("read", reading.key):
            content = _Content(reading.key, reading.rest)
            self._answer.headers = {}
            try:
                # A checksum can be compared only for whole objects; ours is checked in either case.
                self._bucket.blob(name).download_to_file(
                    content,
                    start=reading.at or None,
                    end=reading.end,
                    raw_download=True,
                    checksum=None if reading.at or reading.end is not None else "crc32c",
                    timeout=_SECONDS,
                    retry=_PATIENCE,
                )
            except exceptions.RequestRangeNotSatisfiable:
                return b"", {}
        return content.getvalue(), self._answer.headers

    def stat(self, key: str) -> Stat | None:
        name = self._name(key)
        with self._errors("look at", key):
            blob = self._bucket.get_blob(name, timeout=_SECONDS, retry=_PATIENCE)
            return None if blob is None else _stat(key, blob)

    def list(self, prefix: str, after: str = "") -> Iterator[Stat]:
        with self._errors("list", prefix or "the bucket"):
            fields = "items(name,size,generation),nextPageToken"
            blobs = self._bucket.list_blobs(
                prefix=self._prefix + prefix,
                start_offset=self._prefix + after if after else None,
                fields=fields,
                page_size=_PAGE,
                timeout=_SECONDS,
                retry=_PATIENCE,
            )
            pages = Pages(self.url, prefix)
            for page in blobs.pages:
                for number, blob in enumerate(page):
                    if not number:
                        pages.note(blob.name)
                    key = blob.name.removeprefix(self._prefix)
                    if is_listed(key, after):  # the offset itself belongs to what Google lists
                        yield _stat(key, blob)

    def delete(self, key: str) -> None:
        name = self._name(key)
        try:
            with self._errors("remove", key):
                self._bucket.blob(name).delete(timeout=_SECONDS, retry=_PATIENCE)
        except Missing:
            return

    def unfinished(self) -> Iterator[Stat]:
        """An upload that was not finished is no object, and the store lets go of it by itself."""
        return iter(())

    def now(self) -> float | None:
        self.create()
        return seconds(self._date)

    def reserve(self, size: int) -> int:  # noqa: ARG002  # a bucket is never full
        return 0

    def close(self) -> None:
        if self._open is not None:
            self._open.client.close()
            self._open = None

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        where = f"Cannot {verb} {key} in {self.url}"
        with readable(where, DataCorruption, InvalidResponse):
            try:
                yield
            except exceptions.NotFound as error:
                if "The specified bucket does not exist" in str(error.message):
                    raise TargetError(f"{where}: the bucket does not exist. Create it or correct the URL.") from error
                raise Missing(f"{key} is not in {self.url}.") from error
            except exceptions.PreconditionFailed as error:
                raise PreconditionFailed(f"{key} in {self.url} was written by somebody else.") from error
            except (exceptions.Forbidden, exceptions.Unauthorized, auth.GoogleAuthError) as error:
                raise AccessRefused(
                    f"{where}: {error}. The credential has expired or lacks the permission: renew it."
                ) from error
            except (exceptions.GoogleAPIError, requests.exceptions.RequestException) as error:
                raise TargetError(f"{where}: {error}. Check the network; nothing was half-written.") from error


class _Reading:
    """One object, or a part of it, in as many answers as the store takes for it."""

    def __init__(self, key: str, start: int, length: int | None) -> None:
        self.key = key
        self.end = None if length is None else start + length - 1
        self.data = bytearray()
        self.whole = length == 0
        self._start = start
        self._version: str | None = None

    @property
    def at(self) -> int:
        """The first byte that is left."""
        return self._start + len(self.data)

    @property
    def rest(self) -> int | None:
        """Most bytes that are left."""
        return None if self.end is None else self.end + 1 - self.at

    def take(self, part: bytes, headers: Headers) -> None:
        """Raises TargetError for an answer that is not of what was asked for, or brings nothing of what there is."""
        total = part_of(headers.get("content-range"), self.at, self.key) if headers else None
        version = headers.get("x-goog-generation")
        if self.data and version != self._version:
            raise TargetError(f"{self.key} was written by somebody else while it was read. Try again.")
        self._version = version
        self.data += part
        self.whole = total is None or self.rest == 0 or self.at >= total
        if not self.whole and not part:
            raise TargetError(
                f"Cannot read {self.key}: the store answers short, with {len(self.data)} bytes from byte {self._start} "
                f"on where the whole has {total}, and with nothing of what is left. Try again; if it stays so, ask the "
                "store itself, without a proxy."
            )


class _Answer(local):
    """What the answer to this thread's call says."""

    headers: Headers = {}  # noqa: RUF012  # never changed, only replaced


class _Content(io.BytesIO):
    """What is received of an object: never more than was asked for, whatever the store sends."""

    def __init__(self, key: str, most: int | None) -> None:
        super().__init__()
        self._key = key
        self._most = most

    def write(self, data: Any, /) -> int:
        if self._most is not None and self.tell() + len(data) > self._most:
            raise TargetError(f"The store sends more of {self._key} than it was asked for: it is not usable.")
        return super().write(data)


def _stream(raw: Any, real: Any, amt: int, decode_content: bool | None = None) -> Iterator[bytes]:
    """What the library reads an answer by. It waits for all of a chunk, however slow; of content we do not."""
    if decode_content is not False:
        yield from real(amt, decode_content)
        return
    try:
        yield from paced(raw, amt)
    except CutOff as error:
        # The library goes on with what is left.
        raise requests.exceptions.ConnectionError(str(error)) from error


def _stat(key: str, blob: Any) -> Stat:
    # Every storage class of Google's, ARCHIVE too, is read at once.
    return Stat(key, int(blob.size), str(int(blob.generation)))


def _connect() -> Any:
    client = storage.Client()
    # The library's own pool holds ten connections.
    client._http.mount("https://", requests.adapters.HTTPAdapter(pool_connections=32, pool_maxsize=32))
    return client
