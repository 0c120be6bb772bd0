"""Requests taken at their word: strict JSON bodies, and no query parameter that nothing reads."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json


class StrictRequest(Request):
    """The standard parser takes NaN and lone surrogates, and fails on deep nesting with an error of its own."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class StrictRoute(APIRoute):
    """A route that reads bodies by StrictRequest and refuses unknown query parameters: a typo is not ignored."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = sorted(_query_names(self.dependant))

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, known)
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(inner) for inner in dependant.dependencies))


def _refuse_unknown(request: Request, known: list[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": _hint(name, known), "input": None}
                for name in unknown
            ]
        )


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"unknown parameter, did you mean {near[0]}?"
    return "unknown parameter" + (f", known are {', '.join(known)}" if known else ", this route takes none")
