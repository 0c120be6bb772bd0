"""Cloud DNS v1: managed zones, record sets and changes. Names are kept, not served."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from goud_sandbox.documents import Document, Documents
from goud_sandbox.gcp.base import new_id, now, public
from goud_sandbox.gcp.errors import ApiError

ZONES, CHANGES = "dns-zone", "dns-change"
JsonBody = Annotated[dict[str, Any] | None, Body()]
SERVERS = [f"ns-cloud-a{number}.googledomains.com." for number in range(1, 5)]


class Dns:
    """Zones with their record sets in one document each."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents

    def zone(self, project: str, name: str) -> Document:
        """The zone, or 404."""
        zone = self.documents.get(ZONES, f"{project}/{name}")
        if zone is None:
            raise ApiError(404, "notFound", f"The 'parameters.managedZone' resource named '{name}' does not exist.")
        return zone

    def create(self, project: str, body: Document) -> Document:
        """A zone with its SOA and NS records."""
        name, domain = str(body.get("name")), str(body.get("dnsName", ""))
        if self.documents.get(ZONES, f"{project}/{name}"):
            raise ApiError(409, "alreadyExists", f"The resource 'entity.managedZone' named '{name}' already exists")
        if not domain.endswith("."):
            raise ApiError(400, "invalid", f"Invalid value for 'entity.managedZone.dnsName': '{domain}'")
        soa = f"{SERVERS[0]} cloud-dns-hostmaster.google.com. 1 21600 3600 259200 300"
        zone: Document = {
            **body,
            "kind": "dns#managedZone",
            "id": new_id(),
            "creationTime": now(),
            "nameServers": SERVERS,
            "visibility": body.get("visibility", "public"),
            "_records": [
                {"kind": "dns#resourceRecordSet", "name": domain, "type": "SOA", "ttl": 21600, "rrdatas": [soa]},
                {"kind": "dns#resourceRecordSet", "name": domain, "type": "NS", "ttl": 21600, "rrdatas": SERVERS},
            ],
        }
        self.documents.put(ZONES, f"{project}/{name}", zone)
        return public(zone)

    def delete(self, project: str, name: str) -> None:
        """Remove a zone that holds nothing but its own SOA and NS."""
        zone = self.zone(project, name)
        if len(zone["_records"]) > 2:
            message = (
                f"The resource named '{name}' cannot be deleted because it contains one or more 'resource records'."
            )
            raise ApiError(400, "containerNotEmpty", message)
        self.documents.delete(ZONES, f"{project}/{name}")

    def change(self, project: str, name: str, body: Document) -> Document:
        """Deletions must match existing records, additions must be new; both or nothing."""
        with self.documents.lock:
            zone = self.zone(project, name)
            records: list[Document] = list(zone["_records"])
            for deletion in body.get("deletions") or []:
                same = [record for record in records if _essence(record) == _essence(deletion)]
                if not same:
                    raise ApiError(
                        404,
                        "notFound",
                        f"The 'entity.change.deletions' resource named '{_label(deletion)}' does not exist.",
                    )
                records.remove(same[0])
            for addition in body.get("additions") or []:
                if any((record["name"], record["type"]) == (addition["name"], addition["type"]) for record in records):
                    message = f"The resource 'entity.change.additions' named '{_label(addition)}' already exists"
                    raise ApiError(409, "alreadyExists", message)
                records.append({**addition, "kind": "dns#resourceRecordSet"})
            zone["_records"] = records
            self.documents.put(ZONES, f"{project}/{name}", zone)
        identity = new_id()
        change: Document = {"kind": "dns#change", "id": identity, "status": "done", "startTime": now()}
        change |= {"additions": body.get("additions") or [], "deletions": body.get("deletions") or []}
        self.documents.put(CHANGES, f"{project}/{name}/{identity}", change)
        return change


def _essence(record: Document) -> tuple[Any, ...]:
    return record["name"], record["type"], int(record.get("ttl", 0)), tuple(record.get("rrdatas", []))


def _label(record: Document) -> str:
    return f"{record.get('name')} ({record.get('type')})"


def router(dns: Dns) -> APIRouter:
    """Routes of Cloud DNS."""
    routes = APIRouter(prefix="/dns/v1/projects/{project}/managedZones")
    _zone_routes(routes, dns)
    _record_routes(routes, dns)
    return routes


def _zone_routes(routes: APIRouter, dns: Dns) -> None:
    @routes.get("")
    def zones(project: str, request: Request) -> Document:
        domain = request.query_params.get("dnsName")
        zones = [public(zone) for _, zone in dns.documents.items(ZONES, f"{project}/")]
        zones = [zone for zone in zones if domain in {None, zone["dnsName"]}]
        return {"kind": "dns#managedZonesListResponse", "managedZones": zones}

    @routes.post("")
    def create(project: str, body: JsonBody = None) -> Document:
        return dns.create(project, body or {})

    @routes.get("/{name}")
    def get(project: str, name: str) -> Document:
        return public(dns.zone(project, name))

    @routes.patch("/{name}")
    def patch(project: str, name: str, body: JsonBody = None) -> Document:
        zone = dns.zone(project, name)
        fixed = {"kind", "id", "name", "dnsName", "creationTime"}
        zone |= {key: value for key, value in (body or {}).items() if key not in fixed}
        dns.documents.put(ZONES, f"{project}/{name}", zone)
        return public(zone)

    @routes.delete("/{name}", status_code=204)
    def delete(project: str, name: str) -> None:
        dns.delete(project, name)


def _record_routes(routes: APIRouter, dns: Dns) -> None:
    @routes.get("/{name}/rrsets")
    def records(project: str, name: str, request: Request) -> Document:
        query = request.query_params
        matches = [
            record
            for record in dns.zone(project, name)["_records"]
            if query.get("name") in {None, record["name"]} and query.get("type") in {None, record["type"]}
        ]
        return {"kind": "dns#resourceRecordSetsListResponse", "rrsets": matches}

    @routes.get("/{name}/rrsets/{record}/{kind}")
    def record(project: str, name: str, record: str, kind: str) -> Document:
        for entry in dns.zone(project, name)["_records"]:
            if (entry["name"], entry["type"]) == (record, kind):
                document: Document = entry
                return document
        raise ApiError(404, "notFound", f"The 'parameters.name' resource named '{record} ({kind})' does not exist.")

    @routes.post("/{name}/changes")
    def change(project: str, name: str, body: JsonBody = None) -> Document:
        return dns.change(project, name, body or {})

    @routes.get("/{name}/changes/{identity}")
    def get_change(project: str, name: str, identity: str) -> Document:
        change = dns.documents.get(CHANGES, f"{project}/{name}/{identity}")
        if change is None:
            raise ApiError(404, "notFound", f"The 'parameters.changeId' resource named '{identity}' does not exist.")
        return change
