"""Networks, subnetworks, firewalls and addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from typing_extensions import override

from goud_sandbox.documents import Document
from goud_sandbox.gcp.base import ROOT, Scope
from goud_sandbox.gcp.collection import Collection, Query
from goud_sandbox.gcp.errors import ApiError, in_use, invalid, quota
from goud_sandbox.gcp.operations import Plan

AUTO_RANGE = "10.128.0.0/20"
PROTOCOLS = {"tcp", "udp", "icmp", "esp", "ah", "sctp", "ipip", "all"}


def network(value: object, field: str) -> ipaddress.IPv4Network:
    """A range with its host bits zero, or 400."""
    try:
        return ipaddress.IPv4Network(str(value))
    except ValueError as error:
        raise invalid(field, value, f"{error}.") from None


def room_subnet(document: Document) -> str:
    """The bridge's id in the machine room."""
    return f"gcp-{document['region'].rsplit('/', 1)[-1]}-{document['name']}"


class Networks(Collection):
    """Virtual private clouds; custom mode, or automatic with one range in the sandbox's region."""

    name, kind, scope = "networks", "compute#network", "global"

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Save; automatic mode brings a subnetwork."""
        document.setdefault("autoCreateSubnetworks", True)
        document.setdefault("routingConfig", {"routingMode": "REGIONAL"})
        document["mtu"] = int(document.get("mtu") or 1460)
        document["networkFirewallPolicyEnforcementOrder"] = "AFTER_CLASSIC_FIREWALL"
        self.base.save(document)
        if document["autoCreateSubnetworks"]:
            region = Scope(scope.project, "regions", self.base.settings.region)
            body = {"name": document["name"], "network": document["selfLink"], "ipCidrRange": AUTO_RANGE}
            child = self.base.new(region, "subnetworks", "compute#subnetwork", body)
            Subnetworks(self.base, self.operations).make(region, child, query)
        return Plan()

    @override
    def unmake(self, scope: Scope, document: Document) -> Plan:
        """A network with anything in it stays."""
        key = self.key(scope, document["name"])
        automatic = []
        for collection in ("subnetworks", "firewalls", "instances", "addresses"):
            for other in self.base.all(collection):
                if document["selfLink"] not in _networks(other):
                    continue
                if collection == "subnetworks" and document["autoCreateSubnetworks"]:
                    automatic.append((self.base.key(other["selfLink"]), None))
                    continue
                raise in_use("network", key, self.base.key(other["selfLink"]))
        return Plan(begin=[(key, None), *automatic])

    @override
    def patch(self, scope: Scope, name: str, body: Document) -> Document:
        """Only the routing mode can change."""
        self.need(scope, name)
        return self.update(scope, name, {"routingConfig": body.get("routingConfig")}, "patch")


def _networks(document: Document) -> set[str]:
    links = {interface.get("network") for interface in document.get("networkInterfaces", [])}
    return {str(link) for link in links | {document.get("network")}}


class Subnetworks(Collection):
    """Ranges in a region: a bridge each."""

    name, kind, scope = "subnetworks", "compute#subnetwork", "regions"

    def define(self) -> None:
        """Growing, and the switch for Google's own addresses."""
        self.actions = {"expandIpCidrRange": self.expand, "setPrivateIpGoogleAccess": self.private_access}

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Refuse overlaps within the network."""
        parent = self.base.need(self.base.key(str(document.get("network", ""))))
        range_ = network(document.get("ipCidrRange"), "resource.ipCidrRange")
        for other in self.base.all("subnetworks"):
            if network(other["ipCidrRange"], "ipCidrRange").overlaps(range_):
                message = f"IP range overlaps with existing subnet '{self.base.key(other['selfLink'])}'."
                raise invalid("resource.ipCidrRange", range_, message)
        document |= {
            "network": parent["selfLink"],
            "gatewayAddress": str(range_[1]),
            "purpose": "PRIVATE",
            "stackType": "IPV4_ONLY",
            "state": "READY",
            "fingerprint": document["id"],
        }
        document.setdefault("privateIpGoogleAccess", False)
        document["privateIpv6GoogleAccess"] = "DISABLE_GOOGLE_ACCESS"
        self.base.save(document)
        link = [*parent.get("subnetworks", []), document["selfLink"]]
        self.base.change(self.base.key(parent["selfLink"]), {"subnetworks": link})
        key = self.key(scope, document["name"])
        return Plan(names=[f"subnet:{room_subnet(document)}"], undo=[(key, None)])

    @override
    def unmake(self, scope: Scope, document: Document) -> Plan:
        """A range with machines or reserved addresses in it stays."""
        key = self.key(scope, document["name"])
        for other in [*self.base.all("instances"), *self.base.all("addresses")]:
            links = {interface.get("subnetwork") for interface in other.get("networkInterfaces", [])}
            if document["selfLink"] in links | {other.get("subnetwork")}:
                raise in_use("subnetwork", key, self.base.key(other["selfLink"]))
        parent = self.base.find(self.base.key(document["network"]))
        rest = [link for link in (parent or {}).get("subnetworks", []) if link != document["selfLink"]]
        return Plan(begin=[(key, None), (self.base.key(document["network"]), {"subnetworks": rest})])

    @override
    def patch(self, scope: Scope, name: str, body: Document) -> Document:
        """Secondary ranges and descriptions."""
        self.need(scope, name)
        allowed = {"secondaryIpRanges", "privateIpv6GoogleAccess", "description"}
        return self.update(scope, name, {k: v for k, v in body.items() if k in allowed and v is not None}, "patch")

    def expand(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """A bridge's range cannot grow under its machines: refused while there are any."""
        document = self.need(scope, name)
        range_ = network(body.get("ipCidrRange"), "ipCidrRange")
        before = network(document["ipCidrRange"], "ipCidrRange")
        if not before.subnet_of(range_) or before == range_:
            raise invalid("ipCidrRange", range_, f"Must contain the existing range {before}.")
        raise ApiError(501, "notImplemented", "The sandbox cannot expand a subnetwork's range.")

    def private_access(self, scope: Scope, name: str, body: Document, _: Query) -> Document:
        """Kept, without an effect: nothing in the sandbox depends on it."""
        self.need(scope, name)
        return self.update(scope, name, {"privateIpGoogleAccess": bool(body.get("privateIpGoogleAccess"))})


class Firewalls(Collection):
    """Rules of a network, enforced by the room between machines and towards the operator."""

    name, kind, scope = "firewalls", "compute#firewall", "global"

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Fill in Google's defaults and save."""
        self.base.save(self._complete(document))
        return Plan(names=["firewall:"])

    @override
    def patch(self, scope: Scope, name: str, body: Document) -> Document:
        """Change the rule in place."""
        before = self.need(scope, name)
        values = {key: value for key, value in body.items() if key not in {"kind", "name", "selfLink", "id"}}
        after = self._complete(before | values)
        self.base.save(after)
        return self.operations.start(scope, "patch", self.key(scope, name), Plan(names=["firewall:"]))

    def _complete(self, document: Document) -> Document:
        document["network"] = self.base.need(self.base.key(str(document.get("network"))))["selfLink"]
        document.setdefault("direction", "INGRESS")
        document["priority"] = int(document.get("priority", 1000))
        document.setdefault("disabled", False)
        document.setdefault("logConfig", {"enable": False})
        document.setdefault("description", "")
        entries = [*document.get("allowed", []), *document.get("denied", [])]
        if not entries or (document.get("allowed") and document.get("denied")):
            raise invalid("resource", document["name"], "Exactly one of allowed and denied is needed.")
        for entry in entries:
            entry["IPProtocol"] = str(entry.get("IPProtocol", "")).lower()
            if entry["IPProtocol"] not in PROTOCOLS and not entry["IPProtocol"].isdigit():
                raise invalid("resource.allowed.IPProtocol", entry["IPProtocol"], "Must be a well-known protocol.")
        inward = document["direction"] == "INGRESS"
        ranges = "sourceRanges" if inward else "destinationRanges"
        if not any(document.get(field) for field in (ranges, "sourceTags", "sourceServiceAccounts")):
            document[ranges] = ["0.0.0.0/0"]
        for value in document.get(ranges, []):
            network(value, f"resource.{ranges}")
        return document


class Addresses(Collection):
    """Reserved addresses: external ones are loopback addresses of this host."""

    name, kind, scope = "addresses", "compute#address", "regions"

    @override
    def make(self, scope: Scope, document: Document, query: Query) -> Plan:
        """Give out the lowest free address, or the one asked for."""
        document.setdefault("addressType", "EXTERNAL")
        document |= {"status": "RESERVED", "users": []}
        if document["addressType"] == "INTERNAL":
            subnetwork = self.base.need(self.base.key(str(document.get("subnetwork"))))
            document["subnetwork"] = subnetwork["selfLink"]
            document.setdefault("purpose", "GCE_ENDPOINT")
            document["address"] = self.internal(subnetwork, document.get("address"))
        else:
            document.setdefault("networkTier", "PREMIUM")
            document["address"] = self.external(scope.place)
        document["labelFingerprint"] = ""
        self.base.save(document)
        return Plan()

    @override
    def unmake(self, scope: Scope, document: Document) -> Plan:
        """An address that a machine has stays."""
        if document.get("users"):
            holder = self.base.key(document["users"][0])
            raise in_use("address", self.key(scope, document["name"]), holder)
        return super().unmake(scope, document)

    def external(self, region: str) -> str:
        """The lowest loopback address nobody has."""
        prefix = self.base.settings.loopback
        addresses = {document["address"] for document in self.base.all("addresses")}
        for interface in _interfaces(self.base.all("instances")):
            addresses |= {config.get("natIP", "") for config in interface.get("accessConfigs", [])}
        for last in range(1, 255):
            if f"{prefix}.{last}" not in addresses:
                return f"{prefix}.{last}"
        raise quota("IN_USE_ADDRESSES", 254, region)

    def internal(self, subnetwork: Document, address: str | None) -> str:
        """``address`` when it is in the range and free, else the lowest free address."""
        range_ = network(subnetwork["ipCidrRange"], "ipCidrRange")
        addresses = {document["address"] for document in self.base.all("addresses")}
        addresses |= {interface.get("networkIP", "") for interface in _interfaces(self.base.all("instances"))}
        if address:
            if ipaddress.IPv4Address(address) not in list(range_.hosts())[1:]:
                raise invalid("networkIP", address, f"Must be in the range {range_}.")
            if address in addresses:
                raise ApiError(400, "resourceInUseByAnotherResource", f"IP '{address}' is already being used.")
            return address
        for host in list(range_.hosts())[1:-1]:
            if str(host) not in addresses:
                return str(host)
        raise ApiError(400, "ipSpaceExhausted", f"IP space of '{self.base.key(subnetwork['selfLink'])}' is exhausted.")


def _interfaces(instances: Iterable[Document]) -> Iterable[Document]:
    for instance in instances:
        yield from instance.get("networkInterfaces", [])


def default_link(project: str) -> str:
    """The network that instances get when they name none."""
    return f"{ROOT}projects/{project}/global/networks/default"
