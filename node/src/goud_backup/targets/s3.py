"""Amazon S3, and what speaks its language, through boto3."""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from threading import Lock
from typing import Any

import boto3  # type: ignore[import-untyped]  # it has no types
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from goud_backup.codec.encoding import Bytes
from goud_backup.errors import AccessRefused, Missing, PreconditionFailed, TargetError
from goud_backup.targets.base import Pages, Stat, check_key, is_listed, part_of, readable, seconds
from goud_backup.targets.pace import paced

_log = logging.getLogger(__name__)

_ATTEMPTS = 6
"""Of each call, and of each body."""
_PAUSE = 0.2
_CHUNK = 256 * 1024
_PAGE = 1000
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_UNMET = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_ARCHIVES = {"GLACIER", "DEEP_ARCHIVE", "ARCHIVE", "COLD_ARCHIVE", "DEEP_COLD_ARCHIVE"}
"""Storage classes whose content has to be brought back first; GLACIER_IR is read at once."""
_REFUSED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "UnauthorizedAccess",
}


class S3Target:
    """Objects below `prefix` of a bucket; credentials, region and endpoint come from where boto3 looks for them."""

    independent_clock = True

    def __init__(self, bucket: str, prefix: str) -> None:
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._open: Any = None
        self._opening = Lock()

    @property
    def _client(self) -> Any:
        with self._opening:
            if self._open is None:
                self._open = _connect()
            return self._open

    def create(self) -> None:
        try:
            with self._errors("reach", "the bucket"):
                self._client.head_bucket(Bucket=self._bucket)
        except Missing as error:
            raise self._no_bucket(f"Cannot reach {self.url}") from error

    def put(self, key: str, data: Bytes, *, if_absent: bool = False, if_version: str | None = None) -> Stat:
        name = self._name(key)
        body = data if isinstance(data, bytes) else bytes(data)
        checksum = base64.b64encode(sha256(body).digest()).decode()
        more: dict[str, str] = {}
        if if_absent:
            more["IfNoneMatch"] = "*"
        elif if_version is not None:
            more["IfMatch"] = if_version
        try:
            with self._errors("write", key):
                answer = self._client.put_object(
                    Bucket=self._bucket, Key=name, Body=body, ChecksumSHA256=checksum, **more
                )
        except Missing as error:
            # What S3 answers when there is nothing whose version could match.
            raise PreconditionFailed(f"{key} is no longer in {self.url}.") from error
        stored = answer.get("ChecksumSHA256", checksum)
        if stored != checksum:
            raise TargetError(f"{self.url} stored {key} with the checksum {stored}, sent was {checksum}. Try again.")
        return Stat(key, len(body), str(_field(answer, "ETag", self.url)))

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | bytearray:
        if length == 0:
            return b""
        place = {"Bucket": self._bucket, "Key": self._name(key)}
        with self._errors("read", key):
            reading = _Reading(self._client, place, start, length)
        cut: Exception | None = None
        for attempt in range(_ATTEMPTS):
            time.sleep(attempt * _PAUSE)
            with self._errors("read", key):
                cut = reading.go_on()
            if cut is None:
                return reading.data
            _log.warning("%s in %s was cut off after %d bytes (%s)", key, self.url, len(reading.data), cut)
        raise TargetError(
            f"{self.url} ended {key} early {_ATTEMPTS} times, the last time after {len(reading.data)} bytes: {cut}. "
            "Check the network."
        )

    def stat(self, key: str) -> Stat | None:
        name = self._name(key)
        try:
            with self._errors("look at", key):
                answer = self._client.head_object(Bucket=self._bucket, Key=name)
                archived = answer.get("ArchiveStatus", "") or _archive_class(answer)
                size, version = (_field(answer, field, self.url) for field in ("ContentLength", "ETag"))
                return Stat(key, size, version, archived)
        except Missing:
            return None

    def list(self, prefix: str, after: str = "") -> Iterator[Stat]:
        more: dict[str, str] | None = {"StartAfter": self._prefix + after} if after else {}
        pages = Pages(self.url, prefix)
        while more is not None:
            page = self._page(prefix, more)
            pages.note(next((str(entry.get("Key")) for entry in page.get("Contents", ())), None))
            with self._errors("list", prefix or "the bucket"):
                stats = [self._listed(entry) for entry in page.get("Contents", ())]
            yield from (stat for stat in stats if is_listed(stat.key, after))
            more = self._rest(prefix, page, more) if page.get("IsTruncated") else None

    def _listed(self, entry: dict[str, Any]) -> Stat:
        name, size, version = (_field(entry, field, self.url) for field in ("Key", "Size", "ETag"))
        return Stat(name.removeprefix(self._prefix), size, version, _archive_class(entry))

    def _rest(self, prefix: str, page: Any, before: dict[str, str]) -> dict[str, str]:
        """How the next page is asked for. A list without an end would hold up every verb for ever."""
        token = page.get("NextContinuationToken")
        if not token or token == before.get("ContinuationToken"):
            raise TargetError(
                f"{self.url} says that its list of {prefix or 'the bucket'} goes on, "
                f"{'and gives the same page again' if token else 'but not where'}: it does not speak version 2 of "
                "the list call."
            )
        return {"ContinuationToken": str(token)}

    def _page(self, prefix: str, more: dict[str, str]) -> Any:
        for attempt in range(_ATTEMPTS):
            time.sleep(attempt * _PAUSE)
            with self._errors("list", prefix or "the bucket"):
                page = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, MaxKeys=_PAGE, **more
                )
            # The library takes an answer that was cut off before its first byte for a list of nothing.
            if "IsTruncated" in page:
                return page
            _log.warning("the list of %s in %s was cut off", prefix, self.url)
        raise TargetError(f"{self.url} ended the list of {prefix} early {_ATTEMPTS} times. Check the network.")

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._errors("remove", key):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def unfinished(self) -> Iterator[Stat]:
        """Objects are put in one call each: there is none, or it is whole."""
        return iter(())

    def now(self) -> float | None:
        with self._errors("reach", "the bucket"):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            return seconds(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))

    def reserve(self, size: int) -> int:  # noqa: ARG002  # a bucket is never full
        return 0

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        where = f"Cannot {verb} {key} in {self.url}"
        with readable(where, ResponseParserError):
            try:
                yield
            except ClientError as error:
                raise self._translation(error, where, key) from error
            except (NoCredentialsError, PartialCredentialsError) as error:
                raise AccessRefused(
                    f"{where}: there is no credential ({error}). Give the host a role, or set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY."
                ) from error
            except BotoCoreError as error:
                raise TargetError(f"{where}: {error}. Check the network and AWS_ENDPOINT_URL.") from error

    def _no_bucket(self, where: str) -> TargetError:
        return TargetError(f"{where}: the bucket {self._bucket} does not exist. Create it or correct the URL.")

    def _translation(self, error: ClientError, where: str, key: str) -> TargetError:
        code, text = error.response["Error"].get("Code"), error.response["Error"].get("Message") or str(error)
        # A proxy's page has no code of S3's, but a status.
        code = code or str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        if code in _ABSENT:
            return Missing(f"{key} is not in {self.url}.")
        if code == "NoSuchBucket":
            return self._no_bucket(where)
        if code == "InvalidObjectState":
            return TargetError(
                f"{where}: it is in an archive storage class. Have the store bring it back first, and let no lifecycle "
                "rule move what is in a repository to such a class."
            )
        if code in _UNMET:
            return PreconditionFailed(f"{key} in {self.url} was written by somebody else.")
        if code in _REFUSED:
            return AccessRefused(
                f"{where}: {code}: {text}. The credential has expired or lacks the permission: renew it."
            )
        return TargetError(f"{where}: {code}: {text}.")


def _field(answer: Any, name: str, store: str) -> Any:
    """Raises TargetError for an answer without it: of a small server, or a proxy's page."""
    if name not in answer:
        raise TargetError(f"{store} answered without {name}: it is not an S3 store, or a proxy answers for it.")
    return answer[name]


def _archive_class(answer: dict[str, Any]) -> str:
    storage_class: str = answer.get("StorageClass") or ""
    return storage_class if storage_class.upper() in _ARCHIVES else ""


class _Reading:
    """The content of an object, as far as it has come. What is missing is asked for by its range, of the same version.

    The library repeats a call that fails, but not one whose answer has begun.
    """

    def __init__(self, client: Any, place: dict[str, str], start: int, length: int | None) -> None:
        self.data = bytearray()
        self._client = client
        self._place = place
        self._start = start
        self._most = math.inf if length is None else length
        self._end = "" if length is None else str(start + length - 1)
        self._version: str | None = None
        self._total: int | None = None

    def go_on(self) -> Exception | None:
        """What cut it off this time; None when it is whole. Raises what the call itself fails with."""
        before = -1
        while before < len(self.data):
            before = len(self.data)
            cut = self._answer()
            if cut is not None or not self._is_short():
                return cut
        # A server may answer with less than a range, and says so; but with something.
        return TargetError("it answers with nothing of what is left")

    def _is_short(self) -> bool:
        """Whether the store has more of what was asked for, by its own word."""
        return self._total is not None and len(self.data) < min(self._most, self._total - self._start)

    def _answer(self) -> Exception | None:
        rest = self._rest()
        try:
            answer = self._client.get_object(**self._place, **rest)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"InvalidRange", "416"}:
                return None
            raise
        with closing(answer["Body"]) as body:
            at = self._start + len(self.data)
            self._total = part_of(answer.get("ContentRange"), at, self._place["Key"])
            version = _field(answer, "ETag", "The store")
            if self._version not in {None, version}:
                self._version, self.data = None, bytearray()
                return TargetError("it was written anew meanwhile")
            self._version = version
            try:
                # The library's own reading waits for all of a chunk, however slowly it comes.
                for chunk in paced(body._raw_stream, _CHUNK):
                    self.data += chunk
                    if len(self.data) > self._most:
                        raise TargetError(
                            f"The store sends more of {self._place['Key']} than it was asked for: it is not usable."
                        )
            except (BotoCoreError, HTTPError, OSError) as error:
                return error
        return None

    def _rest(self) -> dict[str, str]:
        at = self._start + len(self.data)
        return {"Range": f"bytes={at}-{self._end}"} if at or self._end else {}


def _connect() -> Any:
    # We send the SHA-256 of every object ourselves; the library need not compute another checksum.
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", config=config)
