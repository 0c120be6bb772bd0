"""Who is asking: bearer tokens from the Authorization header."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from goud_node.api.context import context_of
from goud_node.api.tokens import InvalidToken, Principal
from goud_node.problems import ProblemError

_bearer = HTTPBearer(
    auto_error=False, scheme_name="session", bearerFormat="JWT", description="The token of POST /api/sessions."
)


async def principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Principal:
    """The account the token speaks for; a 401 problem without a valid one."""
    if credentials is None:
        raise unauthorized("Send the token of POST /api/sessions as `Authorization: Bearer <token>`.")
    try:
        return context_of(request).tokens.verify(credentials.credentials)
    except InvalidToken as error:
        raise unauthorized(str(error), invalid=True) from error


def unauthorized(detail: str, *, invalid: bool = False) -> ProblemError:
    challenge = 'Bearer realm="goud-chain"' + (', error="invalid_token"' if invalid else "")
    return ProblemError(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


Caller = Annotated[Principal, Depends(principal)]
