"""Accounts and sessions."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from goud_node import problems
from goud_node.api import schemas
from goud_node.api.auth import unauthorized
from goud_node.api.context import Context, Reached, context_of
from goud_node.api.strict import StrictRoute
from goud_node.api.submit import submit
from goud_node.api.vault import ApiKey
from goud_node.chain.ledger import AccountRecord
from goud_node.chain.transactions import AccountCreate

router = APIRouter(prefix="/api", tags=["accounts"], route_class=StrictRoute)

_SALT_BYTES = 16
_NEWCOMER_SECONDS = 1.0
"""Another node may have made the account a moment ago: wait this long for its block before calling it unknown."""


@router.post(
    "/accounts",
    status_code=201,
    response_model=schemas.AccountCreated,
    responses=problems.documented(413, 422, 503, 504, 507),
)
async def create_account(request: Request) -> Response:
    """Make an account. Its API key is in this answer and nowhere else."""
    context = context_of(request)
    key = ApiKey.generate()
    created_ms = int(context.wall() * 1000)
    transaction = AccountCreate(key.account_id, key.key_hash, os.urandom(_SALT_BYTES), created_ms)
    receipt = await submit(context, transaction.encode())
    body = {
        "account_id": key.account_id,
        "api_key": str(key),
        "created_ms": created_ms,
        "height": receipt.height,
    }
    return JSONResponse(body, 201, headers={"Cache-Control": "no-store"})


@router.post("/sessions", response_model=schemas.Session, responses=problems.documented(400, 401, 413, 422, 503))
async def create_session(body: schemas.SessionRequest, context: Reached) -> Response:
    """Exchange an API key for a token."""
    key = ApiKey.parse(body.api_key)
    account = await _account(context, key) if key is not None else None
    if key is None or account is None or not key.matches(account.key_hash):
        raise unauthorized("This API key belongs to no account of this chain.")
    token, expiry = context.tokens.issue(account.account_id, key.data_key(account.salt))
    answer = {
        "token": token,
        "token_type": "Bearer",
        "account_id": account.account_id,
        "expires": expiry,
        "expires_at": datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


async def _account(context: Context, key: ApiKey) -> AccountRecord | None:
    deadline = time.monotonic() + min(_NEWCOMER_SECONDS, context.settings.min_height_wait_seconds)
    while True:
        account = context.ledger.account(key.account_id)
        if account is not None or time.monotonic() >= deadline:
            return account
        await asyncio.sleep(0.02)
