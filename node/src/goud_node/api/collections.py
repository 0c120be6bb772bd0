"""Collections: labelled JSON, encrypted under the caller's key before the chain sees it."""

from __future__ import annotations

import json
import secrets
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.responses import Response

from goud_node import problems
from goud_node.api import schemas, vault
from goud_node.api.auth import Caller
from goud_node.api.context import Reached
from goud_node.api.strict import StrictRoute
from goud_node.api.submit import submit
from goud_node.api.tokens import Principal
from goud_node.chain.transactions import CollectionPut
from goud_node.errors import CorruptStore
from goud_node.problems import ProblemError

router = APIRouter(prefix="/api/collections", tags=["collections"], route_class=StrictRoute)

SEAL_BYTES = 28
"""Nonce and tag of AES-256-GCM."""
PAGE = 50

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=schemas.IDEMPOTENCY_KEY,
        description="Names this write: a repeat with the same key and content is applied once and answered alike. "
        "One is made when it is absent.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=200, description="Entries on the page.")]
Cursor = Annotated[
    str | None, Query(pattern=schemas.CURSOR, description="`next_cursor` of the page before; newest first without it.")
]


@router.post(
    "",
    status_code=201,
    response_model=schemas.CollectionCreated,
    responses={
        200: {"model": schemas.CollectionCreated, "description": "A repeat: it was stored before"},
        **problems.documented(400, 401, 413, 422, 503, 504, 507),
    },
)
async def store(
    body: schemas.CollectionRequest, caller: Caller, context: Reached, idempotency_key: IdempotencyKey = None
) -> Response:
    """Store a collection; answered when it is durable on a majority."""
    payload = _compact(body.payload)
    if len(payload) > context.settings.max_collection_bytes:
        raise ProblemError(
            413,
            "content-too-large",
            f"The collection has {len(payload)} bytes as compact JSON; the limit is "
            f"{context.settings.max_collection_bytes}. Split it.",
        )
    name = idempotency_key or secrets.token_hex(16)
    transaction = _collection_put(caller, body.label.encode(), payload, name, int(context.wall() * 1000))
    receipt = await submit(context, transaction.encode())
    answer = {
        "collection_id": receipt.transaction_id,
        "height": receipt.height,
        "index": receipt.index,
        "block_hash": receipt.block_hash.hex(),
        "idempotency_key": name,
    }
    is_repeat = receipt.transaction_id != transaction.collection_id
    location = {"Location": f"/api/collections/{receipt.transaction_id}"}
    return JSONResponse(answer, 200 if is_repeat else 201, headers=location)


@router.get("", response_model=schemas.CollectionPage, responses=problems.documented(400, 401, 422, 503))
async def page(caller: Caller, context: Reached, cursor: Cursor = None, limit: Limit = PAGE) -> Response:
    """The caller's collections, newest first, without their payloads."""
    summaries = context.ledger.collections(caller.account_id, cursor, limit)
    entries = [
        {
            "collection_id": row.collection_id,
            "label": _plaintext(caller, row.label, row.collection_id, "label").decode(),
            "size": row.size - SEAL_BYTES,
            "created_ms": row.created_ms,
            "height": row.height,
            "index": row.index,
        }
        for row in summaries.items
    ]
    return JSONResponse({"collections": entries, "next_cursor": summaries.next_cursor})


@router.get("/{collection_id}", response_model=schemas.Collection, responses=problems.documented(401, 404, 422, 503))
async def read(collection_id: Annotated[str, Path(pattern=schemas.ID)], caller: Caller, context: Reached) -> Response:
    """One collection of the caller, with its payload."""
    record = context.ledger.collection(caller.account_id, collection_id)
    if record is None:
        raise ProblemError(
            404,
            "not-found",
            f"This account has no collection {collection_id} at height {context.ledger.height} of this node.",
        )
    head = {
        "collection_id": record.collection_id,
        "label": _plaintext(caller, record.label, collection_id, "label").decode(),
        "created_ms": record.created_ms,
        "height": record.height,
        "index": record.index,
    }
    # The payload is JSON already: parsing it only to write it again would double the cost of a read.
    payload = _plaintext(caller, record.payload, collection_id, "payload")
    text = json.dumps(head, ensure_ascii=False).encode()
    return Response(text[:-1] + b',"payload":' + payload + b"}", media_type="application/json")


def _compact(payload: object) -> bytes:
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        reason = "numbers must be finite" if "JSON compliant" in str(error) else "text must be valid Unicode"
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("body", "payload"), "msg": reason, "input": None}]
        ) from error


def _collection_put(caller: Principal, label: bytes, payload: bytes, name: str, created_ms: int) -> CollectionPut:
    collection_id = secrets.token_hex(16)

    def seal_field(field: str, text: bytes) -> bytes:
        return vault.seal(caller.data_key, text, caller.account_id, collection_id, field)

    return CollectionPut(
        collection_id=collection_id,
        account_id=caller.account_id,
        idempotency_key=name,
        fingerprint=vault.fingerprint(caller.data_key, label, payload),
        label=seal_field("label", label),
        payload=seal_field("payload", payload),
        created_ms=created_ms,
    )


def _plaintext(caller: Principal, ciphertext: bytes, collection_id: str, field: str) -> bytes:
    try:
        return vault.unseal(caller.data_key, ciphertext, caller.account_id, collection_id, field)
    except vault.Undecryptable as error:
        raise CorruptStore(f"collection {collection_id}: its {field} cannot be decrypted ({error})") from error
