"""The way in to moto: one WSGI application for every service; faults first, then the call, then the room.

moto's models are not made for threads, so one call is answered at a time; waiting is done outside.
"""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from goud_sandbox.apifaults import ApiFault, ApiFaults
from goud_sandbox.aws import signature

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

SCOPE = re.compile(r"Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
READS = re.compile(r"(Describe|Get|List|Head|Simulate|Lookup)|(GET|HEAD) ")
QUERY = {"iam", "sts", "route53"}
ANY_REASON = "backendError"  # what an order says that names no reason of its own
Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """A call: its service, and what it does (``ModifyVolume``, or ``PUT /bucket/key`` where the API is REST)."""

    service: str
    action: str
    key: str

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return bool(READS.match(self.action))

    @property
    def path(self) -> str:
        """What a fault's expression is matched with: ``ec2.amazonaws.com/ModifyVolume``."""
        return f"{self.service}.amazonaws.com/{self.action.partition(' ')[2].lstrip('/') or self.action}"


@dataclass
class Answer:
    """A whole answer."""

    status: str
    headers: Headers
    body: bytes


def call_of(environ: WSGIEnvironment, body: bytes) -> Call:
    """What a request asks for."""
    scope = SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    service, key = (scope["service"], scope["key"]) if scope else ("s3", "")
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "/")
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return Call(service, target.rpartition(".")[2], key)
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        action = parse_qs(body.decode(errors="replace")).get("Action")
        if action:
            return Call(service, action[0], key)
    action = parse_qs(environ.get("QUERY_STRING", "")).get("Action")
    return Call(service, action[0] if action else f"{method} {path}", key)


class Gateway:
    """``perform`` answers a call under the lock and saves; ``after`` waits for the room when that is due.

    ``lie`` answers as if, and takes everything back.
    """

    def __init__(
        self,
        moto: WSGIApplication,
        faults: ApiFaults,
        perform: Callable[[Call, Callable[[], Answer], bool], Answer],
        after: Callable[[Call], None],
    ) -> None:
        self._moto = moto
        self._faults = faults
        self._perform = perform
        self._after = after

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """One request."""
        body = _body(environ)
        call = call_of(environ, body)
        answer = self._answer(call, environ, body)
        start(answer.status, answer.headers)
        return [answer.body]

    def _answer(self, call: Call, environ: WSGIEnvironment, body: bytes) -> Answer:
        lie = False
        for fault in self._faults.take(environ["REQUEST_METHOD"], call.path, {"fail", "slow", "lie"}):
            if fault.kind == "fail":
                return failure(call, fault)
            if fault.kind == "slow":
                time.sleep(fault.seconds)
            lie = lie or (fault.kind == "lie" and not call.reads)
        if not call.key:
            return refusal(call, 403, "AccessDenied", "The sandbox answers signed requests only.")
        answer = self._perform(call, lambda: self._ask(call, environ, body), lie)
        if not call.reads and not lie and answer.status.startswith("2"):
            self._after(call)
        return answer

    def _ask(self, call: Call, environ: WSGIEnvironment, body: bytes) -> Answer:
        responses: list[tuple[str, Headers]] = []

        def start(status: str, headers: Headers, _: Any = None, /) -> Callable[[bytes], object]:
            responses.append((status, headers))
            return lambda _: None

        try:
            signature.verify(environ, body)
        except signature.Refusal as error:
            return stranger(call, str(error))
        request = environ | {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        request.pop("HTTP_TRANSFER_ENCODING", None)
        try:
            parts = self._moto(request, start)
            content = b"".join(parts)
        except Exception:
            log.exception("moto cannot answer %s", call)
            return refusal(call, 500, "InternalError", f"The sandbox cannot answer {call.action}: see its log.")
        getattr(parts, "close", lambda: None)()
        return Answer(responses[0][0], responses[0][1], content)


def _body(environ: WSGIEnvironment) -> bytes:
    if environ.get("CONTENT_LENGTH"):
        return bytes(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    return bytes(environ["wsgi.input"].read()) if environ.get("wsgi.input_terminated") else b""


def failure(call: Call, fault: ApiFault) -> Answer:
    """The answer of a fault that was ordered."""
    unavailable = {"ec2": "Unavailable", "s3": "ServiceUnavailable"}.get(call.service, "ServiceUnavailableException")
    return refusal(call, fault.status, unavailable if fault.reason == ANY_REASON else fault.reason, fault.message)


STRANGERS = {  # by what is wrong, then by protocol
    "key": {"s3": "InvalidAccessKeyId", "query": "InvalidClientTokenId", "json": "UnrecognizedClientException"},
    "expired": {"s3": "ExpiredToken", "query": "ExpiredToken", "json": "ExpiredTokenException"},
    "token": {"s3": "InvalidToken", "query": "InvalidClientTokenId", "json": "UnrecognizedClientException"},
    "signature": {"s3": "SignatureDoesNotMatch", "query": "SignatureDoesNotMatch", "json": "InvalidSignatureException"},
}


def stranger(call: Call, reason: str) -> Answer:
    """The answer to somebody who is not who he says."""
    if call.service == "ec2":
        text = "AWS was not able to validate the provided access credentials"
        return refusal(call, 401, "AuthFailure", text)
    protocol = "s3" if call.service == "s3" else "query" if call.service in QUERY else "json"
    text = "The request signature we calculated does not match the signature you provided."
    message = text if reason == "signature" else "The security token included in the request is invalid."
    return refusal(call, 403, STRANGERS[reason][protocol], message)


def refusal(call: Call, status: int, code: str, message: str) -> Answer:
    """An error in the words of the service's protocol."""
    inner = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if call.service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>sandbox</RequestID></Response>"
    elif call.service == "s3":
        text = f"<Error>{inner}<RequestId>sandbox</RequestId></Error>"
    elif call.service in QUERY:
        text = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>sandbox</RequestId></ErrorResponse>"
    else:
        text = f'{{"__type": "{code}", "message": "{message}"}}'
    kind = "application/json" if text.startswith("{") else "text/xml"
    content = text.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(content))), ("x-amzn-ErrorType", code)]
    return Answer(f"{status} {code}", headers, content)
