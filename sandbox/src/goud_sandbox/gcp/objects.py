"""Objects of Cloud Storage: generations, preconditions, versions, holds and retention; bytes in files."""

from __future__ import annotations

import base64
import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import google_crc32c

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import new_id, now
from goud_sandbox.gcp.buckets import OBJECTS, ROOT, Buckets, Query, check
from goud_sandbox.gcp.errors import ApiError

CHUNK = 1 << 20
SETTABLE = {
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "customTime",
    "eventBasedHold",
    "metadata",
    "storageClass",
    "temporaryHold",
}


def digests(path: Path) -> tuple[str, str, int]:
    """CRC32C and MD5 in base64, and the size in bytes."""
    crc, md5, size = 0, hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            crc = google_crc32c.extend(crc, block)
            md5.update(block)
            size += len(block)
    return base64.b64encode(crc.to_bytes(4, "big")).decode(), base64.b64encode(md5.digest()).decode(), size


class Objects:
    """Objects by bucket, name and generation; the one with ``_live`` is what a plain read gets."""

    def __init__(self, buckets: Buckets, folder: Path) -> None:
        self.buckets = buckets
        self.documents = buckets.documents
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    # reading ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _key(document: Document) -> str:
        return f"{document['bucket']}\n{document['name']}\n{document['generation']}"

    def versions(self, bucket: str, name: str) -> list[Document]:
        """Every generation, oldest first."""
        return [document for _, document in self.documents.items(OBJECTS, f"{bucket}\n{name}\n")]

    def live(self, bucket: str, name: str) -> Document | None:
        """The live generation, if there is one."""
        return next((document for document in self.versions(bucket, name) if document["_live"]), None)

    def get(self, bucket: str, name: str, query: Query) -> Document:
        """The live generation or the named one, after the preconditions; 404 when there is none."""
        self.buckets.get(bucket)
        generation = query.get("generation")
        if generation:
            document = next(
                (document for document in self.versions(bucket, name) if document["generation"] == generation), None
            )
        else:
            document = self.live(bucket, name)
        if document is None:
            raise ApiError(404, "notFound", f"No such object: {bucket}/{name}")
        check(query, "Generation", int(document["generation"]))
        check(query, "Metageneration", int(document["metageneration"]))
        return document

    def path(self, document: Document) -> Path:
        """The file with the bytes."""
        return self.folder / str(document["generation"])

    def listing(self, bucket: str, query: Query) -> list[Document]:
        """Objects by name, live ones unless ``versions`` is asked for."""
        self.buckets.get(bucket)
        all_versions = query.get("versions", "").lower() == "true"
        first, last = query.get("startOffset", ""), query.get("endOffset", "")
        return [
            document
            for _, document in self.documents.items(OBJECTS, f"{bucket}\n{query.get('prefix', '')}")
            if (document["_live"] or all_versions)
            and document["name"] >= first
            and (not last or document["name"] < last)
        ]

    # writing ---------------------------------------------------------------------------------------------------

    def write(self, bucket: str, metadata: Document, source: Path, query: Query) -> Document:
        """Take a file as the new live generation: checksums, preconditions and retention first."""
        name = str(metadata.get("name") or query.get("name") or "")
        if not name or len(name.encode()) > 1024 or set(name) & {"\r", "\n"}:
            raise ApiError(400, "required", "Required: an object name of 1 to 1024 bytes on one line")
        crc, md5, size = digests(source)
        for field, present in (("crc32c", crc), ("md5Hash", md5)):
            if metadata.get(field) not in {None, present}:
                message = f'Provided {field} "{metadata[field]}" doesn\'t match calculated {field} "{present}".'
                raise ApiError(400, "invalid", message)
        with self.documents.lock:
            container = self.buckets.get(bucket)
            before = self.live(bucket, name)
            check(query, "Generation", int(before["generation"]) if before else None)
            if before:
                check(query, "Metageneration", int(before["metageneration"]))
            document = self._new(container, name, metadata) | {"crc32c": crc, "md5Hash": md5, "size": str(size)}
            if before:
                self._retire(container, before)
            source.rename(self.path(document))
            self.documents.put(OBJECTS, self._key(document), document)
        return document

    def _new(self, bucket: Document, name: str, metadata: Document) -> Document:
        generation, time = new_id(), now()
        link = f"{ROOT}{bucket['name']}/o/{quote(name, safe='')}"
        document: Document = {
            "contentType": "application/octet-stream",
            "storageClass": bucket["storageClass"],
            **{key: value for key, value in metadata.items() if key in SETTABLE and value is not None},
            "kind": "storage#object",
            "id": f"{bucket['name']}/{name}/{generation}",
            "name": name,
            "bucket": bucket["name"],
            "generation": generation,
            "metageneration": "1",
            "timeCreated": time,
            "updated": time,
            "timeStorageClassUpdated": time,
            "selfLink": link,
            "mediaLink": f"https://storage.googleapis.com/download/storage/v1/b/{bucket['name']}/o/"
            f"{quote(name, safe='')}?generation={generation}&alt=media",
            "etag": base64.b64encode(generation.encode()).decode(),
            "_live": True,
        }
        retention_end = self.buckets.retention_end(bucket, time)
        return document | ({"retentionExpirationTime": retention_end.isoformat()} if retention_end else {})

    def _retire(self, bucket: Document, before: Document) -> None:
        """The live generation becomes a noncurrent one, or goes, as the bucket's versioning says."""
        if (bucket.get("versioning") or {}).get("enabled"):
            before |= {"_live": False, "timeDeleted": now()}
            self.documents.put(OBJECTS, self._key(before), before)
        else:
            self._erase(bucket, before)

    def _erase(self, bucket: Document, document: Document) -> None:
        resource = f"{bucket['name']}/{document['name']}"
        if document.get("temporaryHold") or document.get("eventBasedHold"):
            message = f"Object '{resource}' is under active hold and cannot be deleted, overwritten or archived."
            raise ApiError(403, "objectUnderActiveHold", message)
        retention_end = self.buckets.retention_end(bucket, document["timeCreated"])
        if retention_end and retention_end > datetime.now(UTC):
            raise ApiError(
                403,
                "retentionPolicyNotMet",
                f"Object '{resource}' is subject to bucket's retention policy and cannot be deleted, overwritten or "
                f"archived until {retention_end.isoformat()}",
            )
        self.documents.delete(OBJECTS, self._key(document))
        self.path(document).unlink(missing_ok=True)

    def delete(self, bucket: str, name: str, query: Query) -> None:
        """Remove a generation for good, or the live one as the bucket's versioning says."""
        with self.documents.lock:
            document = self.get(bucket, name, query)
            container = self.buckets.get(bucket)
            if query.get("generation"):
                self._erase(container, document)
            else:
                self._retire(container, document)

    def update(self, bucket: str, name: str, body: Document, query: Query) -> Document:
        """Change metadata; null removes a field."""
        with self.documents.lock:
            document = self.get(bucket, name, query)
            for key, value in body.items():
                if key == "metadata" and isinstance(value, dict):
                    metadata = {**document.get("metadata", {}), **value}
                    document["metadata"] = {k: v for k, v in metadata.items() if v is not None}
                elif key in SETTABLE:
                    document[key] = value
            document = {key: value for key, value in document.items() if value is not None}
            document |= {"metageneration": str(int(document["metageneration"]) + 1), "updated": now()}
            self.documents.put(OBJECTS, self._key(document), document)
        return document

    def copy(self, source: Document, bucket: str, name: str, body: Document, query: Query) -> Document:
        """A new object with the same bytes."""
        temporary = self.folder / f"copy-{new_id()}"
        shutil.copyfile(self.path(source), temporary)
        metadata = {
            key: value for key, value in source.items() if key in SETTABLE - {"temporaryHold", "eventBasedHold"}
        }
        return self.write(bucket, metadata | body | {"name": name}, temporary, query)

    def compose(self, bucket: str, name: str, body: Document, query: Query) -> Document:
        """One object out of up to 32, in order."""
        parts = body.get("sourceObjects") or []
        if not 1 <= len(parts) <= 32:
            raise ApiError(400, "invalid", "The number of source components must be between 1 and 32.")
        temporary = self.folder / f"compose-{new_id()}"
        with temporary.open("wb") as target:
            for part in parts:
                version = {"generation": str(part["generation"])} if part.get("generation") else {}
                with self.path(self.get(bucket, part["name"], version)).open("rb") as file:
                    shutil.copyfileobj(file, target, CHUNK)
        document = self.write(bucket, (body.get("destination") or {}) | {"name": name}, temporary, query)
        document = {key: value for key, value in document.items() if key != "md5Hash"} | {"componentCount": len(parts)}
        self.documents.put(OBJECTS, self._key(document), document)
        return document
