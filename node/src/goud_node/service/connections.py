"""What a connection may cost before anybody knows who asks: bounds of headers, of what surrounds a body, of slowness.

The parser collects a line for as long as it is, and the server keeps every line: neither has a bound of its own.
(`h11` has one, and takes several times as long for a request.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders

from goud_node import problems

MOST_HEAD_BYTES: Final = 64 * 1024
"""Most bytes of a request line with its headers, and most of a body's trailers and chunk extensions."""
MOST_HEADER_LINES: Final = 128
MOST_WAITING: Final = 16
"""Most requests that a client may send ahead of their answers on one connection."""
BODY_SECONDS: Final = 20.0
BODY_BYTES: Final = 64 * 1024
"""Least bytes of a body in each `BODY_SECONDS` of it, but for its end: who sends less has no use for an answer."""
HEAD_SECONDS: Final = 20.0
"""Longest from a connection's start, or from the first byte of a later request, to the end of its headers."""
SEND_SECONDS: Final = 60.0
SEND_BYTES: Final = 192 * 1024
"""Least bytes that a client takes of what waits for it in each `SEND_SECONDS`: until then it is kept in memory."""
_SLICE: Final = 16 * 1024
_CHUNK_LINES: Final = 24  # bytes around a chunk of a body: its size and two line ends
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 4 * 1024 * 1024
_TOO_LARGE: Final = (
    f"A request line with its headers has at most {MOST_HEAD_BYTES} bytes and {MOST_HEADER_LINES} lines, and so have "
    "the trailers and extensions of a body."
)

_LINE_TOO_LONG: Final = "A line of a request for a WebSocket has at most 8 KiB."


class _Stage(Enum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class _Refused(Exception):
    """Ends the parser's work from within one of its calls."""


class Requests(HttpToolsProtocol):
    """A connection that speaks HTTP."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stage = _Stage.IDLE
        self._stages = 0
        self._size = self._lines = 0  # of the complete lines of this head, or of these trailers
        self._overhead = 0  # bytes of this stage that are not part of a body
        self._content = 0  # bytes of the present slice that are
        self._body_bytes = 0  # bytes of a body since its timer was set
        self._reason: tuple[int, str, str] | None = None
        self._deaf = False
        self._discarded_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base class does
        super().connection_made(transport)
        self._set_timer(HEAD_SECONDS, self._on_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_send_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_send_timer()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
        elif len(data) <= _SLICE:
            self._feed(data)
        else:
            for start in range(0, len(data), _SLICE):
                if self._deaf or self.transport.is_closing():
                    return
                self._feed(data[start : start + _SLICE])

    def _feed(self, part: bytes) -> None:
        previous_stages, self._content = self._stages, 0
        super().data_received(part)
        if self._deaf or self.transport.is_closing():
            return
        if self._stages == previous_stages:
            self._overhead += len(part) - self._content
            if self._overhead > MOST_HEAD_BYTES:
                self._refuse(431, "headers-too-large", _TOO_LARGE)
                return
        if self._timer is not None:
            return
        if self._stage is _Stage.BODY:
            self._set_timer(BODY_SECONDS, self._on_slow_body)
        elif self._stage is _Stage.HEAD or not self._owes_answer():
            self._set_timer(HEAD_SECONDS, self._on_silence)

    def on_message_begin(self) -> None:
        self._enter(_Stage.HEAD)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines += 1
        self._count(len(name) + len(value) + 4)
        # What follows a body came too late for whoever has looked at the headers, so it is not a header.
        if self._stage is _Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._enter(_Stage.BODY)
        self._cancel_timer()
        if len(self.pipeline) >= MOST_WAITING:
            raise _Refused
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._content += _CHUNK_LINES

    def on_body(self, body: bytes) -> None:
        self._content += len(body)
        self._body_bytes += len(body)
        super().on_body(body)
        if self.cycle is not None and self.cycle.response_complete:
            self._discard(len(body))

    def on_message_complete(self) -> None:
        self._enter(_Stage.IDLE)
        self._cancel_timer()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._deaf = True  # the transport has another protocol from here on
        self._cancel_send_timer()
        if self._owes_answer():
            self._end_after_answers()
        else:
            super().handle_websocket_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        # The parser takes what follows for the other protocol, so the body is lost, and must not pass for a request.
        self._deaf = True
        self._end_after_answers()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._reason or (400, "bad-request", msg)))

    def _enter(self, stage: _Stage) -> None:
        self._stage = stage
        self._stages += 1
        self._size = self._lines = self._overhead = self._body_bytes = self._discarded_bytes = 0

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MOST_HEAD_BYTES or self._lines > MOST_HEADER_LINES:
            self._stop_with(431, "headers-too-large", _TOO_LARGE)

    def _stop_with(self, status: int, code: str, detail: str) -> None:
        self._reason = (status, code, detail)
        raise _Refused

    def _owes_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Say why and hang up, unless the client would take that for the answer to an earlier request."""
        self._deaf = True
        self._cancel_timer()
        if self._owes_answer():
            if not self.cycle.more_body:
                self._end_after_answers()
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.close()
                return
            # The request that is being read is the one refused; whoever waits for the rest of it need not any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_answer(getattr(self, "url", b""), status, code, detail))
        self.transport.write_eof()
        # A connection that is closed with unread data is reset, and the reset may overtake the answer.
        self.flow.resume_reading()
        self._set_timer(_LINGER_SECONDS, self.transport.close)

    def _end_after_answers(self) -> None:
        if self._owes_answer():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > _LINGER_BYTES:
            self.transport.close()

    def _on_silence(self) -> None:
        if self._stage is _Stage.HEAD:
            self._refuse(408, "request-timeout", f"The headers were not complete within {HEAD_SECONDS:g} s.")
        else:
            self.transport.close()

    def _on_slow_body(self) -> None:
        is_blocked = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if self._body_bytes >= BODY_BYTES or is_blocked:
            self._body_bytes = 0
            self._set_timer(BODY_SECONDS, self._on_slow_body)
        elif self._owes_answer():
            shortfall = f"less than {BODY_BYTES} bytes of it came within {BODY_SECONDS:g} s"
            self._refuse(408, "request-timeout", f"The body was not complete in time: {shortfall}.")
        else:
            self.transport.close()

    def _expect_reader(self) -> None:
        size = self.transport.get_write_buffer_size()
        self._cancel_send_timer()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self._on_slow_reader, size)

    def _on_slow_reader(self, previous_size: int) -> None:
        if previous_size - self.transport.get_write_buffer_size() < SEND_BYTES:
            # Closing it would wait for that client once more.
            self.transport.abort()
        else:
            self._expect_reader()

    def _cancel_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._timer = self.loop.call_later(seconds, action)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Events(WebSocketsSansIOProtocol):
    """A connection that speaks WebSocket.

    Whoever waits for a client that does not read waits for `send_seconds`; then the connection is cut off. (Closing it
    would wait for that client once more.)
    """

    def __init__(self, *arguments: Any, send_seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._send_seconds = send_seconds
        self._cut_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_off_after(self._send_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._ends():
            self._spare()

    def connection_lost(self, exc: Exception | None) -> None:
        self._spare()
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._cut_off_after(self._send_seconds)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.disconnected:
            self._cut_off_after(self.close_timeout + self._send_seconds)

    def _ends(self) -> bool:
        return self.close_sent or self.transport.is_closing()

    def _cut_off_after(self, seconds: float) -> None:
        if self._cut_timer is None:
            self._cut_timer = self.loop.call_later(seconds, self.transport.abort)

    def _spare(self) -> None:
        if self._cut_timer is not None:
            self._cut_timer.cancel()
            self._cut_timer = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The whole request comes at once, read by one parser already. What the second one refuses, nobody answers.
        if not self.handshake_initiated and not self.transport.is_closing():
            self._refuse(data)

    def _refuse(self, request: bytes) -> None:
        self.handshake_complete = self.close_sent = True
        target = request[:_SLICE].split(b" ", 2)[1]
        if isinstance(self.conn.handshake_exc, (HeaderLineTooLong, RequestLineTooLong, TooManyHeaders)):
            detail = f"{_LINE_TOO_LONG} {_TOO_LARGE}"
            self.transport.write(_answer(target, 431, "headers-too-large", detail))
        else:
            self.transport.write(_answer(target, 400, "bad-request", "This is not a request for a WebSocket."))
        self.transport.close()


def _answer(target: bytes, status: int, code: str, detail: str) -> bytes:
    """A problem document as a whole response, the last one of its connection."""
    scope = {"path": target.partition(b"?")[0][:1024].decode("latin-1") or "/"}
    response = problems.respond(scope, status, code, detail, headers={"Connection": "close"})
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
