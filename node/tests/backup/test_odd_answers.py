"""Answers that are not what S3 gives: of a small server that leaves a field out, or a proxy's page in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, islice
from threading import Lock, Thread
from typing import Any

import pytest

from goud_backup.errors import AccessRefused, TargetError
from goud_backup.targets.base import Target, seconds
from goud_backup.targets.gs import GsTarget
from goud_backup.targets.s3 import S3Target

PAGE = b"<html><body>refused by the proxy</body></html>"
LIST = b"<ListBucketResult><IsTruncated>%s</IsTruncated><Contents><Key>p/a</Key>%s</Contents>%s</ListBucketResult>"
STORES: tuple[Callable[[str, str], Target], ...] = (S3Target, GsTarget)
VERBS: dict[str, Callable[[S3Target], object]] = {
    "put": lambda target: target.put("a", b"1"),
    "get": lambda target: target.get("a"),
    "stat": lambda target: target.stat("a"),
    "list": lambda target: list(islice(target.list("a"), 10_000)),
}


@dataclass
class Server:
    """Gives every request the same answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    each: Callable[[dict[str, str]], None] = lambda _: None
    """Called with the request's headers before every answer."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    answers, one_at_a_time = Server(), Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            # Google's library asks for the bucket at the same time, in a thread of its own.
            with one_at_a_time:
                answers.each({name.lower(): value for name, value in self.headers.items()})
                self.send_response(answers.status)
                for name, value in {
                    "content-length": str(len(answers.body)),
                    "connection": "close",
                    **answers.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answers.body)
            self.close_connection = True

    for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    yield answers
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize(
    ("verb", "answer", "lacks"),
    [
        ("put", Server(), "ETag"),
        ("get", Server(body=PAGE), "ETag"),
        ("stat", Server(headers={"content-length": "3"}), "ETag"),
        ("list", Server(body=LIST % (b"false", b"<Size>1</Size>", b"")), "ETag"),
        ("list", Server(body=LIST % (b"false", b'<ETag>"x"</ETag>', b"")), "Size"),
    ],
)
def test_an_answer_that_lacks_a_field_is_named(server: Server, verb: str, answer: Server, lacks: str) -> None:
    vars(server).update(vars(answer))
    with pytest.raises(TargetError, match=f"answered without {lacks}"):
        VERBS[verb](S3Target("bucket", "p"))


@pytest.mark.parametrize("verb", ["put", "get", "list"])
def test_a_page_that_refuses_is_a_refusal(server: Server, verb: str) -> None:
    server.status, server.body, server.headers = 403, PAGE, {"content-type": "text/html"}
    with pytest.raises(AccessRefused, match="403"):
        VERBS[verb](S3Target("bucket", "p"))


@pytest.mark.parametrize("token", [b"", b"<NextContinuationToken>t</NextContinuationToken>"])
def test_a_list_ends(server: Server, token: bytes) -> None:
    """One that says that it goes on must say where, and go on there."""
    server.body = LIST % (b"true", b'<Size>1</Size><ETag>"x"</ETag>', token)
    with pytest.raises(TargetError, match=r"version 2 of the list call|the list has no end"):
        VERBS["list"](S3Target("bucket", "p"))


@pytest.mark.parametrize("tokens", [2, 1_000_000], ids=["alternate", "are ever new"])
def test_a_list_ends_whose_tokens_differ(server: Server, tokens: int) -> None:
    numbers = count()

    def each(_: dict[str, str]) -> None:
        token = b"<NextContinuationToken>%d</NextContinuationToken>" % (next(numbers) % tokens)
        server.body = LIST % (b"true", b'<Size>1</Size><ETag>"x"</ETag>', token)

    server.each = each
    with pytest.raises(TargetError, match="the list has no end"):
        VERBS["list"](S3Target("bucket", "p"))


def ranged(server: Server, content: bytes, most: int, told: str = "bytes {first}-{last}/{size}") -> None:
    """Answer each range with at most so many bytes of it."""

    def each(headers: dict[str, str]) -> None:
        first, _, last = headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        start = int(first)
        server.body = content[start : min(int(last or 1 << 60) + 1, start + most)]
        end = start + len(server.body) - 1
        server.status = 206
        shown = told.format(first=start, last=end, size=len(content))
        server.headers = {"etag": '"x"', "x-goog-generation": "1", "content-range": shown}

    server.each = each


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(("start", "length", "most"), [(0, 5000, 700), (0, 100_000, 1), (40, 1000, 999), (7, None, 50)])
def test_what_a_part_lacks_is_asked_for(
    server: Server, start: int, length: int | None, most: int, store: Callable[[str, str], Target]
) -> None:
    """A server may answer with less than a range: nothing of what it has left out is damaged."""
    content = bytes(range(256)) * (8 if most > 1 else 1)
    ranged(server, content, most)
    end = None if length is None else start + length
    assert bytes(store("bucket", "p").get("a", start, length)) == content[start:end]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("told", ["bytes 9-{last}/{size}", "nonsense"])
def test_another_part_is_no_answer(server: Server, told: str, store: Callable[[str, str], Target]) -> None:
    ranged(server, b"0123456789" * 50, 100, told)
    with pytest.raises(TargetError, match="not usable"):
        store("bucket", "p").get("a", 0, 400)


@pytest.mark.parametrize("store", STORES)
def test_a_part_of_nothing_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch, store: Callable[[str, str], Target]
) -> None:
    monkeypatch.setattr("goud_backup.targets.s3._PAUSE", 0)
    server.status, server.headers = 206, {"etag": '"x"', "content-range": "bytes 0-0/500"}
    with pytest.raises(TargetError, match="nothing of what is left"):
        store("bucket", "p").get("a", 0, 400)


JSON = {"content-type": "application/json"}
CALLS: dict[str, Callable[[Target], object]] = {
    "put": lambda target: target.put("a", b"1"),
    "put a version": lambda target: target.put("a", b"1", if_version="5"),
    "get": lambda target: target.get("a"),
    "get a part": lambda target: target.get("a", 3, 5),
    "stat": lambda target: target.stat("a"),
    "list": lambda target: list(islice(target.list("a"), 10_000)),
    "delete": lambda target: target.delete("a"),
    "now": lambda target: target.now(),
    "create": lambda target: target.create(),
}


def entry(more: bytes = b"", size: bytes = b"<Size>1</Size>", tag: bytes = b'<ETag>"x"</ETag>') -> Server:
    return Server(body=LIST % (b"false", size + tag, more))


def error(body: bytes, status: int = 400) -> Server:
    return Server(status, body=b"<Error>" + body + b"</Error>")


def item(**fields: object) -> Server:
    document = {"name": "p/a", "size": "1", "generation": "7", **fields}
    return Server(headers=JSON, body=json.dumps({"items": [document], **document}).encode())


def document(body: bytes, status: int = 200) -> Server:
    return Server(status, JSON, body)


S3_ANSWERS = {
    "a size of letters": entry(size=b"<Size>ten</Size>"),
    "a size below nothing": entry(size=b"<Size>-5</Size>"),
    "a size of many digits": entry(size=b"<Size>%s</Size>" % (b"9" * 5000)),
    "two sizes": entry(size=b"<Size>1</Size><Size>2</Size>"),
    "two versions": entry(tag=b"<ETag>1</ETag><ETag>2</ETag>"),
    "an empty date": Server(body=LIST % (b"false", b'<Size>1</Size><ETag>"x"</ETag><LastModified/>', b"")),
    "a date of words": Server(body=LIST % (b"false", b"<Size>1</Size><LastModified>today</LastModified>", b"")),
    "a count of letters": entry(b"<KeyCount>x</KeyCount>"),
    "names that are not encoded as it says": entry(b"<EncodingType>url</EncodingType><Prefix>%ff%zz</Prefix>"),
    "an error without a code": error(b"<Message>m</Message>"),
    "an error with a code inside a code": error(b"<Code><a>b</a></Code><Message>m</Message>"),
    "an error with two codes": error(b"<Code>A</Code><Code>B</Code>"),
    "an error with two messages": error(b"<Code>AccessDenied</Code><Message>A</Message><Message>B</Message>", 403),
    "an error with an empty code": error(b"<Code/>", 404),
    "an error that is empty": error(b""),
    "a page": Server(headers={"content-type": "text/html"}, body=b"<!doctype html><html><br></html>"),
    "JSON": Server(body=b'{"a": 1}'),
    "deep XML": Server(body=b"<a>" * 20_000 + b"</a>" * 20_000),
    "a header's date of words": Server(headers={"etag": '"x"', "last-modified": "today"}, body=b"abc"),
    "a header's number of letters": Server(headers={"etag": '"x"', "x-amz-missing-meta": "x"}, body=b"abc"),
    "a length of letters": Server(headers={"etag": '"x"', "content-length": "three"}, body=b"abc"),
    "a checksum that is none": Server(headers={"etag": '"x"', "x-amz-checksum-sha256": "zz"}),
}
GS_ANSWERS = {
    "a page": Server(headers={"content-type": "text/html"}, body=b"<html>login</html>"),
    "a list": document(b"[1, 2]"),
    "null": document(b"null"),
    "a text": document(b'"x"'),
    "deep JSON": document(b"[" * 100_000),
    "items that are a map": document(b'{"items": {"a": 1}}'),
    "items that are null": document(b'{"items": null}'),
    "items that are numbers": document(b'{"items": [1]}'),
    "an item without a name": document(b'{"items": [{"size": "1", "generation": "7"}]}'),
    "an item without a size": document(b'{"items": [{"name": "p/a", "generation": "7"}]}'),
    "an item without a generation": document(b'{"items": [{"name": "p/a", "size": "1"}], "size": "1"}'),
    "a name that is null": item(name=None),
    "a name that is a number": item(name=5),
    "a size of letters": item(size="ten"),
    "a size below nothing": item(size="-5"),
    "a size of many digits": item(size="9" * 5000),
    "a size that is a list": item(size=[1]),
    "a generation of letters": item(generation="x"),
    "a generation that is null": item(generation=None),
    "an error that is a page": Server(400, {"content-type": "text/html"}, b"<html>"),
    "an error that is a text": document(b'{"error": "x"}', 400),
    "an error of numbers": document(b'{"error": {"message": 5, "errors": [3]}}', 400),
    "an error that is a list": document(b"[1]", 400),
    "a miss that is a text": document(b'{"error": "gone"}', 404),
    "a miss that is a map": document(b'{"error": {"message": {"a": 1}}}', 404),
    "a refusal that is a list": document(b'{"error": [1]}', 412),
    "a checksum of other content": Server(headers={"x-goog-hash": "crc32c=AAAAAA=="}, body=b"abc"),
    "a checksum that is none": Server(headers={"x-goog-hash": "crc32c=zz"}, body=b"abc"),
    "a way to nowhere": Server(302, {"location": "gopher://x"}),
}
ODD = [
    *(pytest.param(S3Target, answer, id=f"s3 {name}") for name, answer in S3_ANSWERS.items()),
    *(pytest.param(GsTarget, answer, id=f"gs {name}") for name, answer in GS_ANSWERS.items()),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goud_backup.targets.s3._PAUSE", 0)
    monkeypatch.setattr("goud_backup.targets.gs._PATIENCE", None)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("store", "answer"), ODD)
def test_no_answer_ends_in_a_traceback(server: Server, answer: Server, store: Callable[[str, str], Target]) -> None:
    """Whatever a store answers to any call: a result, or an error that names the store, and does not run on."""
    vars(server).update(vars(answer))
    with closing(store("bucket", "p")) as target:
        for call in CALLS.values():
            with suppress(TargetError):
                call(target)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("store", "call", "answer"),
    [
        (S3Target, "list", S3_ANSWERS["two sizes"]),
        (S3Target, "list", S3_ANSWERS["a size below nothing"]),
        (S3Target, "stat", S3_ANSWERS["a header's date of words"]),
        (S3Target, "put", S3_ANSWERS["an error with two codes"]),
        (GsTarget, "list", GS_ANSWERS["an item without a size"]),
        (GsTarget, "list", GS_ANSWERS["an item without a generation"]),
        (GsTarget, "list", GS_ANSWERS["a size below nothing"]),
        (GsTarget, "stat", GS_ANSWERS["a list"]),
        (GsTarget, "get", GS_ANSWERS["a checksum of other content"]),
        (GsTarget, "put", GS_ANSWERS["an error that is a text"]),
    ],
)
def test_an_answer_that_cannot_be_read_is_named(
    server: Server, call: str, answer: Server, store: Callable[[str, str], Target]
) -> None:
    vars(server).update(vars(answer))
    verb = {"list": "list", "stat": "look at", "put": "write", "get": "read"}[call]
    with closing(store("bucket", "p")) as target, pytest.raises(TargetError) as caught:
        CALLS[call](target)
    assert str(caught.value).startswith(f"Cannot {verb} a in {target.url}: ")
    assert len(str(caught.value)) < 1000


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("call", CALLS)
def test_an_endpoint_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an endpoint")
    with pytest.raises(TargetError, match=r"s3://bucket/p: .*Invalid endpoint"):
        CALLS[call](S3Target("bucket", "p"))


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 99999999999999999999 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 2024 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +9999999999999",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 01 Jan 0001 00:00:00 -0000",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "x" * 100,
        "",
    ],
)
def test_a_date_that_is_none_is_none(date: str) -> None:
    assert seconds(date) is None or abs(seconds(date) or 0) < 1e12
