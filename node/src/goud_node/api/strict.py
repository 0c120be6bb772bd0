"""Requests taken at their word: strict JSON bodies, and no query parameter that nothing reads.

What a caller stores is parsed and written again, so a body that would come back as another document is refused. Numbers
with a fraction or an exponent are binary64, to the nearest one, as RFC 8259 has it; integers keep every digit.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

_ZEROS: Final = b"0" * 300
_MOST_NAME: Final = 100
Place = tuple[str | int, ...]


class _Changed(HTTPException):
    """Reading the body would change it. Of this kind, because the framework lets no other pass."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(422, reason)
        self.place = place


class StrictRequest(Request):
    """The standard parser takes NaN and lone surrogates, and fails on deep nesting with an error of its own."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            document = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error
        _require_unchanged(body)
        return document


class StrictRoute(APIRoute):
    """A route that reads bodies by StrictRequest and refuses unknown query parameters: a typo is not ignored."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        parameters = sorted(_query_names(self.dependant))

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, parameters)
            try:
                return await handle(StrictRequest(request.scope, request.receive))
            except _Changed as change:
                entry = {"type": "value_error", "loc": ("body", *change.place), "msg": change.detail, "input": None}
                raise RequestValidationError([entry]) from change

        return strict


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(dependency) for dependency in dependant.dependencies))


def _refuse_unknown(request: Request, parameters: list[str]) -> None:
    unknown_names = [name for name in request.query_params if name not in parameters]
    if unknown_names:
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": _hint(name, parameters), "input": None}
                for name in unknown_names
            ]
        )


def _hint(name: str, parameters: list[str]) -> str:
    suggestions = difflib.get_close_matches(name, parameters, n=1)
    if suggestions:
        return f"unknown parameter, did you mean {suggestions[0]}?"
    return "unknown parameter" + (f", known are {', '.join(parameters)}" if parameters else ", this route takes none")


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written."""


class _Vanished:
    """A number that is not 0 and would become 0."""


class _Suspicion(Exception):
    """The body would change somewhere: it is worth looking for the place."""


def _require_unchanged(body: bytes) -> None:
    """Raises _Changed for an object that gives a name twice (the last one wins), or a number that becomes 0.

    The body is valid JSON. It is read again for that, faster than anything that looks for a place, and once more when
    there is one to be named.
    """
    text = body.decode()
    number = _number if b"e-" in body or b"E-" in body or _ZEROS in body else float
    try:
        # What becomes of integers is of no interest here, and the standard parser has a bound for their digits.
        json.loads(text, object_pairs_hook=_refuse_repeats, parse_float=number, parse_int=bool)
    except _Suspicion:
        change = _change(json.loads(text, object_pairs_hook=_Pairs, parse_float=_binary64, parse_int=bool), ())
        if change is not None:
            raise _Changed(*change) from None


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _Suspicion


def _number(text: str) -> None:
    if isinstance(_binary64(text), _Vanished):
        raise _Suspicion


def _binary64(text: str) -> float | _Vanished:
    number = float(text)
    digits, _, _ = text.lower().partition("e")
    return _Vanished() if number == 0 and digits.strip("-0.") else number


def _change(value: object, place: Place) -> tuple[Place, str] | None:
    """The first place where the document would change, and how."""
    if isinstance(value, _Vanished):
        return place, "the number is so small that it would become 0: send it as text"
    entries: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, _Pairs):
        entries = value
    elif isinstance(value, list):
        entries = enumerate(value)
    names: set[str | int] = set()
    for name, element in entries:
        element_place = (*place, name[:_MOST_NAME] if isinstance(name, str) else name)
        if name in names:
            return element_place, "the name is given twice, and only one of the values would be kept"
        names.add(name)
        change = _change(element, element_place)
        if change is not None:
            return change
    return None
