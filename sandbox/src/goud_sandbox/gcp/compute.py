"""Routes of Compute Engine v1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from goud_sandbox.documents import Document
from goud_sandbox.gcp import catalog
from goud_sandbox.gcp.base import ROOT, Base, Scope, new_id, public
from goud_sandbox.gcp.collection import Action, Collection
from goud_sandbox.gcp.disks import Disks, ResourcePolicies, Snapshots
from goud_sandbox.gcp.errors import ApiError, not_found, stale
from goud_sandbox.gcp.filters import page
from goud_sandbox.gcp.instances import set_metadata
from goud_sandbox.gcp.networks import Addresses, Firewalls, Networks, Subnetworks
from goud_sandbox.gcp.operations import Operations, Plan
from goud_sandbox.gcp.power import PoweredInstances

ScopeOf = Callable[[Request], Scope]
JsonBody = Annotated[dict[str, Any] | None, Body()]


class Compute:
    """All collections on one set of documents."""

    def __init__(self, base: Base, operations: Operations) -> None:
        self.base = base
        self.operations = operations
        self.disks = Disks(base, operations)
        self.addresses = Addresses(base, operations)
        self.instances = PoweredInstances(base, operations, self.disks, self.addresses)
        collections: list[Collection] = [
            Networks(base, operations),
            Subnetworks(base, operations),
            Firewalls(base, operations),
            self.addresses,
            self.disks,
            Snapshots(base, operations),
            ResourcePolicies(base, operations),
            self.instances,
        ]
        self.collections = {collection.name: collection for collection in collections}

    def collection(self, scope: Scope, name: str) -> Collection:
        """The collection of that place, or 404 with a word on what the sandbox lacks."""
        self.base.check_scope(scope)
        collection = self.collections.get(name)
        if collection is None or collection.scope != scope.kind:
            raise ApiError(404, "notFound", f"{scope.kind}/{name} is not part of the sandbox.")
        return collection

    def project(self, project: str) -> Document:
        """The project with its common metadata."""
        self.base.check_scope(Scope(project, "global"))
        key = f"projects/{project}"
        document = self.base.find(key)
        if document is None:
            metadata = set_metadata(None)
            document = {"kind": "compute#project", "id": new_id(), "name": project, "selfLink": ROOT + key}
            document["commonInstanceMetadata"] = metadata
            self.base.save(document)
        return document

    def usage(self, region: str) -> list[Document]:
        """Quotas of a region and what is used of them."""
        settings = self.base.settings
        cpus = sum(self.instances.cpus(instance) for instance in self.base.all("instances"))
        return [
            {"metric": "CPUS", "limit": float(settings.quota_cpus), "usage": float(cpus)},
            {
                "metric": "SSD_TOTAL_GB",
                "limit": float(settings.quota_ssd_gb),
                "usage": float(self.disks.ssd_gb(region)),
            },
        ]

    def constant(self, scope: Scope, name: str) -> list[Document] | None:
        """Lists of what nobody creates; None for other collections."""
        if scope.kind == "zones" and name == "machineTypes":
            return catalog.machine_types(scope.project, scope.place)
        if scope.kind == "zones" and name == "diskTypes":
            return [catalog.disk_type(scope.project, scope.place, disk_type) for disk_type in catalog.DISK_TYPES]
        return None


def _list(kind: str, items: list[Document], request: Request) -> Document:
    documents, token = page([public(item) for item in items], request.query_params)
    answer: Document = {"kind": kind, "id": new_id(), "items": documents, "selfLink": str(request.url)}
    return answer | ({"nextPageToken": token} if token else {})


def _aggregation(compute: Compute, project: str, name: str, request: Request) -> Document:
    compute.base.check_scope(Scope(project, "global"))
    collection = compute.collections.get(name)
    if collection is None:
        raise not_found(f"projects/{project}/aggregated/{name}")
    documents, token = page([public(item) for item in compute.base.all(name)], request.query_params)
    places = [f"regions/{region}" for region in catalog.REGIONS] if collection.scope == "regions" else []
    places += [f"zones/{zone}" for zone in catalog.zones()] if collection.scope == "zones" else []
    items: dict[str, Document] = {}
    for place in places:
        matches = [item for item in documents if f"/{place}/" in item["selfLink"]]
        empty = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": f"There are no results for scope '{place}'"}}
        items[place] = {name: matches} if matches else empty
    return {"kind": f"{collection.kind}AggregatedList", "items": items} | ({"nextPageToken": token} if token else {})


def router(compute: Compute) -> APIRouter:
    """Every route, for global, regional and zonal resources alike."""
    routes = APIRouter(prefix="/compute/v1/projects")
    _project_routes(routes, compute)
    _catalog_routes(routes, compute)
    for kind in ("global", "regions", "zones"):
        prefix = "/{project}/global" if kind == "global" else f"/{{project}}/{kind}/{{place}}"
        _operation_routes(routes, compute, prefix, _scope_of(kind))
        _resource_routes(routes, compute, prefix, _scope_of(kind))
        _action_routes(routes, compute, prefix, _scope_of(kind))
    return routes


def _project_routes(routes: APIRouter, compute: Compute) -> None:
    @routes.get("/{project}")
    def get_project(project: str) -> Document:
        return public(compute.project(project))

    @routes.post("/{project}/setCommonInstanceMetadata")
    def set_common(project: str, body: JsonBody = None) -> Document:
        before = compute.project(project)["commonInstanceMetadata"]
        if (body or {}).get("fingerprint") != before["fingerprint"]:
            raise stale("Metadata")
        key = f"projects/{project}"
        compute.base.change(key, {"commonInstanceMetadata": set_metadata(body)})
        return compute.operations.start(Scope(project, "global"), "setMetadata", key, Plan())


def _catalog_routes(routes: APIRouter, compute: Compute) -> None:
    @routes.get("/{project}/zones")
    def list_zones(project: str, request: Request) -> Document:
        return _list("compute#zoneList", [catalog.zone(project, name) for name in catalog.zones()], request)

    @routes.get("/{project}/regions")
    def list_regions(project: str, request: Request) -> Document:
        regions = [catalog.region(project, name, compute.usage(name)) for name in catalog.REGIONS]
        return _list("compute#regionList", regions, request)

    @routes.get("/{project}/zones/{place}")
    def get_zone(project: str, place: str) -> Document:
        return catalog.zone(project, place)

    @routes.get("/{project}/regions/{place}")
    def get_region(project: str, place: str) -> Document:
        return catalog.region(project, place, compute.usage(place))

    @routes.get("/{project}/aggregated/{name}")
    def aggregation(project: str, name: str, request: Request) -> Document:
        return _aggregation(compute, project, name, request)

    @routes.get("/{project}/global/images/family/{family}")
    def image_family(project: str, family: str) -> Document:
        return catalog.find_image(f"projects/{project}/global/images/family/{family}")

    @routes.get("/{project}/global/images/{name}")
    def image(project: str, name: str) -> Document:
        return catalog.find_image(f"projects/{project}/global/images/{name}")

    @routes.get("/{project}/global/images")
    def images(project: str, request: Request) -> Document:
        return _list("compute#imageList", [catalog.image()] if project == catalog.IMAGE_PROJECT else [], request)


def _operation_routes(routes: APIRouter, compute: Compute, prefix: str, scope_of: ScopeOf) -> None:
    @routes.get(prefix + "/operations")
    def operations(request: Request) -> Document:
        return _list("compute#operationList", compute.operations.listing(scope_of(request)), request)

    @routes.get(prefix + "/operations/{name}")
    def operation(name: str, request: Request) -> Document:
        return compute.operations.get(scope_of(request), name)

    @routes.post(prefix + "/operations/{name}/wait")
    def wait(name: str, request: Request) -> Document:
        return compute.operations.wait(scope_of(request), name)


def _resource_routes(routes: APIRouter, compute: Compute, prefix: str, scope_of: ScopeOf) -> None:
    @routes.get(prefix + "/{collection}")
    def listing(collection: str, request: Request) -> Document:
        scope = scope_of(request)
        constant = compute.constant(scope, collection)
        if constant is not None:
            return _list(f"compute#{collection[:-1]}List", constant, request)
        resources = compute.collection(scope, collection)
        return _list(f"{resources.kind}List", compute.base.listing(scope, collection), request)

    @routes.post(prefix + "/{collection}")
    def insert(collection: str, request: Request, body: JsonBody = None) -> Document:
        scope = scope_of(request)
        return compute.collection(scope, collection).insert(scope, body or {}, request.query_params)

    @routes.get(prefix + "/{collection}/{name}")
    def get(collection: str, name: str, request: Request) -> Document:
        scope = scope_of(request)
        if scope.kind == "zones" and collection == "machineTypes":
            return catalog.machine_type(scope.project, scope.place, name)
        if scope.kind == "zones" and collection == "diskTypes":
            return catalog.disk_type(scope.project, scope.place, name)
        return public(compute.collection(scope, collection).need(scope, name))

    @routes.delete(prefix + "/{collection}/{name}")
    def delete(collection: str, name: str, request: Request) -> Document:
        scope = scope_of(request)
        return compute.collection(scope, collection).delete(scope, name)

    @routes.patch(prefix + "/{collection}/{name}")
    def patch(collection: str, name: str, request: Request, body: JsonBody = None) -> Document:
        scope = scope_of(request)
        return compute.collection(scope, collection).patch(scope, name, body or {})


def _action_routes(routes: APIRouter, compute: Compute, prefix: str, scope_of: ScopeOf) -> None:
    @routes.get(prefix + "/{collection}/{name}/{action}")
    def read(collection: str, name: str, action: str, request: Request) -> Document:
        scope = scope_of(request)
        resources = compute.collection(scope, collection)
        return _action(resources, resources.reads, scope, name, action)(scope, name, {}, request.query_params)

    @routes.post(prefix + "/{collection}/{name}/{action}")
    def act(collection: str, name: str, action: str, request: Request, body: JsonBody = None) -> Document:
        scope = scope_of(request)
        resources = compute.collection(scope, collection)
        return _action(resources, resources.actions, scope, name, action)(scope, name, body or {}, request.query_params)


def _scope_of(kind: str) -> ScopeOf:
    def scope_of(request: Request) -> Scope:
        return Scope(request.path_params["project"], kind, request.path_params.get("place", ""))

    return scope_of


def _action(resources: Collection, table: dict[str, Action], scope: Scope, name: str, action: str) -> Action:
    if action not in table:
        raise ApiError(404, "notFound", f"{resources.key(scope, name)}/{action} is not part of the sandbox.")
    return table[action]
