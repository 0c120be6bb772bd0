"""Routes of Cloud Storage's JSON API, uploads and downloads."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from goud_sandbox.documents import Document, Documents
from goud_sandbox.gcp import conditions
from goud_sandbox.gcp.base import new_id, public
from goud_sandbox.gcp.buckets import Buckets
from goud_sandbox.gcp.errors import ApiError
from goud_sandbox.gcp.iam import Iam
from goud_sandbox.gcp.objects import CHUNK, Objects

JsonBody = Annotated[dict[str, Any] | None, Body()]
UPLOADS = "storage-upload"
Upload = tuple[str, Document, dict[str, str]]  # who uploads, the metadata, the query


class Storage:
    """Buckets, objects and the uploads under way."""

    def __init__(self, documents: Documents, folder: Path, iam: Iam, project: str) -> None:
        self.buckets = Buckets(documents, iam, project)
        self.objects = Objects(self.buckets, folder)
        self.documents = documents
        self.iam = iam

    def temporary(self) -> Path:
        """A file for bytes that are not an object yet."""
        return self.objects.folder / f"upload-{new_id()}"

    def may_write(self, caller: str, bucket: str, name: str) -> None:
        """Creating needs one permission, overwriting a second one."""
        self.buckets.allow(caller, "storage.objects.create", bucket, name)
        if self.objects.live(bucket, name):
            self.buckets.allow(caller, "storage.objects.delete", bucket, name)


def _caller(request: Request) -> str:
    return str(request.state.caller)


def router(storage: Storage) -> APIRouter:
    """Everything under /storage/v1, /upload/storage/v1 and /download/storage/v1."""
    routes = APIRouter()
    _bucket_routes(routes, storage)
    _policy_routes(routes, storage)
    _copy_routes(routes, storage)
    _object_routes(routes, storage)
    _upload_routes(routes, storage)
    return routes


def _bucket_routes(routes: APIRouter, storage: Storage) -> None:
    buckets = storage.buckets

    @routes.get("/storage/v1/b")
    def listing(request: Request) -> Document:
        storage.iam.require(_caller(request), "storage.buckets.list", f"projects/{buckets.project}")
        return {"kind": "storage#buckets", "items": buckets.all(request.query_params.get("prefix", ""))}

    @routes.post("/storage/v1/b")
    def create(request: Request, body: JsonBody = None) -> Document:
        storage.iam.require(_caller(request), "storage.buckets.create", f"projects/{buckets.project}")
        return buckets.create(body or {})

    @routes.get("/storage/v1/b/{bucket}")
    def get(bucket: str, request: Request) -> Document:
        document = buckets.get(bucket)
        buckets.allow(_caller(request), "storage.buckets.get", bucket)
        return document

    @routes.patch("/storage/v1/b/{bucket}")
    @routes.put("/storage/v1/b/{bucket}")
    def update(bucket: str, request: Request, body: JsonBody = None) -> Document:
        buckets.allow(_caller(request), "storage.buckets.update", bucket)
        return buckets.update(bucket, body or {}, request.query_params, replace=request.method == "PUT")

    @routes.delete("/storage/v1/b/{bucket}", status_code=204)
    def delete(bucket: str, request: Request) -> None:
        buckets.allow(_caller(request), "storage.buckets.delete", bucket)
        buckets.delete(bucket, request.query_params)

    @routes.post("/storage/v1/b/{bucket}/lockRetentionPolicy")
    def lock(bucket: str, request: Request) -> Document:
        buckets.allow(_caller(request), "storage.buckets.update", bucket)
        return buckets.lock(bucket, request.query_params)


def _policy_routes(routes: APIRouter, storage: Storage) -> None:
    @routes.get("/storage/v1/b/{bucket}/iam")
    def get(bucket: str, request: Request) -> Document:
        storage.buckets.get(bucket)
        storage.buckets.allow(_caller(request), "storage.buckets.getIamPolicy", bucket)
        version = int(request.query_params.get("optionsRequestedPolicyVersion") or 1)
        policy = conditions.view(storage.iam.policy(f"buckets/{bucket}"), version)
        return {"kind": "storage#policy", "resourceId": conditions.bucket_name(bucket)} | policy

    @routes.put("/storage/v1/b/{bucket}/iam")
    def put(bucket: str, request: Request, body: JsonBody = None) -> Document:
        access = storage.buckets.get(bucket)["iamConfiguration"]["uniformBucketLevelAccess"]
        storage.buckets.allow(_caller(request), "storage.buckets.setIamPolicy", bucket)
        conditions.check(body or {}, uniform=bool(access.get("enabled")))
        return {"kind": "storage#policy"} | storage.iam.set_policy(f"buckets/{bucket}", body or {})

    @routes.get("/storage/v1/b/{bucket}/iam/testPermissions")
    def test(bucket: str, request: Request) -> Document:
        permissions = []
        for permission in request.query_params.getlist("permissions"):
            try:
                storage.buckets.allow(_caller(request), permission, bucket)
            except ApiError:
                continue
            permissions.append(permission)
        return {"kind": "storage#testIamPermissionsResponse", "permissions": permissions}


def _copy_routes(routes: APIRouter, storage: Storage) -> None:
    @routes.post("/storage/v1/b/{bucket}/o/{name:path}/compose")
    def compose(bucket: str, name: str, request: Request, body: JsonBody = None) -> Document:
        storage.may_write(_caller(request), bucket, name)
        for part in (body or {}).get("sourceObjects") or []:
            storage.buckets.allow(_caller(request), "storage.objects.get", bucket, str(part.get("name", "")))
        return public(storage.objects.compose(bucket, name, body or {}, request.query_params))

    @routes.post("/storage/v1/b/{bucket}/o/{name:path}/rewriteTo/b/{other}/o/{target:path}")
    @routes.post("/storage/v1/b/{bucket}/o/{name:path}/copyTo/b/{other}/o/{target:path}")
    def copy(bucket: str, name: str, request: Request, body: JsonBody = None) -> Document:
        other, target = request.path_params["other"], request.path_params["target"]
        storage.buckets.allow(_caller(request), "storage.objects.get", bucket, name)
        storage.may_write(_caller(request), other, target)
        query = dict(request.query_params)
        version = {"generation": query["sourceGeneration"]} if "sourceGeneration" in query else {}
        source = storage.objects.get(bucket, name, version)
        document = public(storage.objects.copy(source, other, target, body or {}, query))
        if "/copyTo/" in request.url.path:
            return document
        size = document["size"]
        answer = {"kind": "storage#rewriteResponse", "done": True, "objectSize": size, "resource": document}
        return answer | {"totalBytesRewritten": size}


def _object_routes(routes: APIRouter, storage: Storage) -> None:
    objects = storage.objects

    @routes.get("/storage/v1/b/{bucket}/o")
    def listing(bucket: str, request: Request) -> Document:
        storage.buckets.allow(_caller(request), "storage.objects.list", bucket)
        return _page(objects.listing(bucket, request.query_params), request)

    @routes.get("/download/storage/v1/b/{bucket}/o/{name:path}")
    @routes.get("/storage/v1/b/{bucket}/o/{name:path}")
    def get(bucket: str, name: str, request: Request) -> Response:
        storage.buckets.allow(_caller(request), "storage.objects.get", bucket, name)
        document = objects.get(bucket, name, request.query_params)
        if request.query_params.get("alt") != "media":
            return JSONResponse(public(document))
        return _media(objects.path(document), document, request.headers.get("range"))

    @routes.patch("/storage/v1/b/{bucket}/o/{name:path}")
    @routes.put("/storage/v1/b/{bucket}/o/{name:path}")
    def update(bucket: str, name: str, request: Request, body: JsonBody = None) -> Document:
        storage.buckets.allow(_caller(request), "storage.objects.update", bucket, name)
        return public(objects.update(bucket, name, body or {}, request.query_params))

    @routes.delete("/storage/v1/b/{bucket}/o/{name:path}", status_code=204)
    def delete(bucket: str, name: str, request: Request) -> None:
        storage.buckets.allow(_caller(request), "storage.objects.delete", bucket, name)
        objects.delete(bucket, name, request.query_params)


def _page(documents: list[Document], request: Request) -> Document:
    query = request.query_params
    delimiter, prefix = query.get("delimiter", ""), query.get("prefix", "")
    items, prefixes = [], set()
    for document in documents:
        cut = document["name"].find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            prefixes.add(document["name"][: cut + len(delimiter)])
        else:
            items.append(public(document))
    start, size = int(query.get("pageToken") or 0), int(query.get("maxResults") or 1000)
    answer: Document = {"kind": "storage#objects", "items": items[start : start + size]}
    if prefixes and not start:
        answer["prefixes"] = sorted(prefixes)
    return answer | ({"nextPageToken": str(start + size)} if len(items) > start + size else {})


def _media(path: Path, document: Document, range_: str | None) -> Response:
    size = int(document["size"])
    first, last = 0, size - 1
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", range_ or "")
    if match and (match[1] or match[2]):
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(size - 1, int(match[2])) if match[1] and match[2] else size - 1
        if first >= size:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    partial = bool(match) and size > 0
    headers = {
        "Content-Length": str(last - first + 1),
        "X-Goog-Hash": f"crc32c={document['crc32c']}"
        + (f",md5={document['md5Hash']}" if "md5Hash" in document else ""),
        "X-Goog-Generation": document["generation"],
        "X-Goog-Metageneration": document["metageneration"],
        "X-Goog-Storage-Class": document["storageClass"],
        "ETag": document["etag"],
    }
    if partial:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return StreamingResponse(
        _blocks(path, first, last), 206 if partial else 200, headers, media_type=document["contentType"]
    )


def _blocks(path: Path, first: int, last: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(first)
        left = last - first + 1
        while left > 0 and (block := file.read(min(CHUNK, left))):
            left -= len(block)
            yield block


async def _save(path: Path, blocks: AsyncIterator[bytes], mode: str = "wb") -> None:
    with path.open(mode) as file:
        async for block in blocks:
            file.write(block)


def _parts(body: bytes, content_type: str) -> tuple[Document, bytes]:
    """Metadata and bytes of a multipart/related body."""
    match = re.search(r'boundary="?([^";]+)"?', content_type)
    if not match:
        raise ApiError(400, "badContent", "Missing multipart boundary.")
    mark = b"--" + match[1].encode()
    pieces = body.split(b"\r\n" + mark) if body.startswith(b"\r\n") else (b"\r\n" + body).split(b"\r\n" + mark)
    if len(pieces) < 4:
        raise ApiError(400, "badContent", "A multipart upload has two parts: metadata and media.")
    metadata, media = (piece.partition(b"\r\n\r\n")[2] for piece in pieces[1:3])
    return json.loads(metadata), media


def _upload_routes(routes: APIRouter, storage: Storage) -> None:
    @routes.post("/upload/storage/v1/b/{bucket}/o")
    async def begin(bucket: str, request: Request) -> Response:
        kind = request.query_params.get("uploadType")
        if kind == "resumable":
            return await _begin_resumable(storage, bucket, request)
        path = storage.temporary()
        if kind == "multipart":
            metadata, media = _parts(await request.body(), request.headers.get("content-type", ""))
            path.write_bytes(media)
        else:
            metadata = {"contentType": request.headers.get("content-type", "application/octet-stream")}
            await _save(path, request.stream())
        query = dict(request.query_params)
        return await run_in_threadpool(_finish, storage, bucket, (_caller(request), metadata, query), path)

    @routes.put("/upload/storage/v1/b/{bucket}/o")
    async def resume(bucket: str, request: Request) -> Response:
        return await _resume(storage, bucket, request)


def _finish(storage: Storage, bucket: str, upload: Upload, path: Path) -> Response:
    caller, metadata, query = upload
    try:
        storage.may_write(caller, bucket, str(metadata.get("name") or query.get("name") or ""))
        return JSONResponse(public(storage.objects.write(bucket, metadata, path, query)))
    finally:
        path.unlink(missing_ok=True)


async def _begin_resumable(storage: Storage, bucket: str, request: Request) -> Response:
    storage.buckets.get(bucket)
    body = await request.body()
    metadata = json.loads(body) if body else {}
    metadata.setdefault("contentType", request.headers.get("x-upload-content-type", "application/octet-stream"))
    query = dict(request.query_params)
    metadata.setdefault("name", query.get("name"))
    storage.may_write(_caller(request), bucket, str(metadata["name"]))
    identity = new_id()
    path = storage.temporary()
    await run_in_threadpool(path.touch)
    upload = {"metadata": metadata, "path": str(path), "query": query}
    storage.documents.put(UPLOADS, identity, upload)
    host = request.headers.get("host", "storage.googleapis.com")
    location = f"https://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={identity}"
    return Response(status_code=200, headers={"Location": location, "X-GUploader-UploadID": identity})


async def _resume(storage: Storage, bucket: str, request: Request) -> Response:
    identity = request.query_params.get("upload_id", "")
    upload = storage.documents.get(UPLOADS, identity)
    if upload is None:
        raise ApiError(410, "gone", "The upload is over or was never begun.")
    path = Path(upload["path"])
    size = _size(path)
    header = request.headers.get("content-range", "")
    match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", header) if header else None
    if header and not match:
        raise ApiError(400, "badRequest", f"Invalid Content-Range: {header}")
    if match and match[1] is not None and int(match[1]) != size:
        return _incomplete(size)
    if not match or match[1] is not None:
        await _save(path, request.stream(), "ab")
    size = _size(path)
    if match and (match[3] == "*" or int(match[3]) > size):
        return _incomplete(size)
    storage.documents.delete(UPLOADS, identity)
    arguments = (_caller(request), upload["metadata"], upload["query"])
    return await run_in_threadpool(_finish, storage, bucket, arguments, path)


def _size(path: Path) -> int:
    return path.stat().st_size


def _incomplete(size: int) -> Response:
    headers = {"Range": f"bytes=0-{size - 1}"} if size else {}
    return Response(status_code=308, headers=headers)
