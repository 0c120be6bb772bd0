"""The room's firewall: one nftables table in the host's network namespace, where no machine can reach it.

Traffic between machines of one bridge passes the host's forward hook (br_netfilter); traffic from this host (an
operator, or Docker's port publisher) passes its output hook, with the bridge's own address as the source. That address
therefore stands for the world outside: a rule opens a port to it when its ranges hold 127.0.0.1 or everything.

Doors lead from link-local addresses to services at the bridge's own address. Whatever else is link-local is refused:
this host may be a cloud's machine itself, and its metadata is not the sandbox's to give away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from goud_sandbox.room.model import Desired, Door, Rule, Subnet

JUMPS = ("jump machine_out", "jump machine_in")
LINK_LOCAL = "169.254.0.0/16"
OPERATOR = ipaddress.ip_address("127.0.0.1")


def gateway(subnet: Subnet) -> str:
    """The bridge's own address: the first of the range."""
    return str(ipaddress.ip_network(subnet.cidr)[1])


def addresses(values: Iterable[str]) -> str:
    return "{ " + ", ".join(sorted(set(values))) + " }"


def service(rule: Rule) -> list[str]:
    """The matching part for protocol and ports; one entry per nft rule."""
    if rule.protocol == "all":
        return [""]
    if rule.protocol == "icmp":
        return ["ip protocol icmp"]
    if rule.protocol in {"tcp", "udp", "sctp"}:
        if rule.ports:
            return [f"{rule.protocol} dport {{ {', '.join(rule.ports)} }}"]
        return [f"meta l4proto {rule.protocol}"]
    return [f"meta l4proto {rule.protocol}"]


def includes_operator(rule: Rule) -> bool:
    """Whether the rule's ranges hold the operator's address."""
    return any(OPERATOR in ipaddress.ip_network(peer, strict=False) for peer in rule.peers)


def lines(rule: Rule, gateways: tuple[str, ...]) -> list[str]:
    """nft rules for one rule, without its chain."""
    verdict = "accept" if rule.allow else "drop"
    own_field, peer_field = ("daddr", "saddr") if rule.direction == "in" else ("saddr", "daddr")
    peers = tuple(str(ipaddress.ip_network(peer, strict=False)) for peer in rule.peers)
    if includes_operator(rule) and gateways and rule.direction == "in":
        peers += gateways
    if not rule.machines or not peers:
        return []
    peer_match = "" if "0.0.0.0/0" in peers else f"ip {peer_field} {addresses(peers)}"
    return [
        " ".join(
            part
            for part in (f"ip {own_field} {addresses(rule.machines)}", peer_match, match, "counter", verdict)
            if part
        )
        for match in service(rule)
    ]


def order(rules: Iterable[Rule], direction: str) -> list[Rule]:
    return sorted((rule for rule in rules if rule.direction == direction), key=lambda rule: (rule.priority, rule.allow))


def door_rules(doors: Iterable[Door], subnets: Iterable[Subnet]) -> list[str]:
    """nft rules that lead each bridge's machines through the doors."""
    return [
        f"ip saddr {subnet.cidr} ip daddr {door.address} tcp dport {door.port} "
        f"dnat ip to {gateway(subnet)}:{door.bridge_port}"
        for subnet in subnets
        for door in doors
    ]


def render(table: str, desired: Desired, doors: tuple[Door, ...] = ()) -> str:
    """The whole table as nft input that replaces the one before in one transaction."""
    gateways = tuple(gateway(subnet) for subnet in desired.subnets)
    machines = [machine.address for machine in desired.machines]
    cut_off = [machine.address for machine in desired.machines if machine.id in desired.cut_off]
    head = f"table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n"
    if not machines:
        return head + "}\n"
    partition = [f"ip saddr {addresses(cut_off)} drop", f"ip daddr {addresses(cut_off)} drop"] if cut_off else []
    inward = [line for rule in order(desired.rules, "in") for line in lines(rule, gateways)]
    outward = [line for rule in order(desired.rules, "out") for line in lines(rule, gateways)]
    preamble = [*partition, "ct state established,related accept"]
    local = f"ip saddr {addresses(machines)} ip daddr {LINK_LOCAL} counter reject"
    chains = {
        "doors": ["type nat hook prerouting priority dstnat; policy accept;", *door_rules(doors, desired.subnets)],
        "forward": ["type filter hook forward priority -10; policy accept;", *preamble, local, *JUMPS],
        "output": ["type filter hook output priority -10; policy accept;", *preamble, "jump machine_in"],
        "input": ["type filter hook input priority -10; policy accept;", *partition],
        "machine_in": [*inward, f"ip daddr {addresses(machines)} counter drop"],
        "machine_out": [line.replace(" accept", " return") for line in outward],
    }
    body = "".join(f"  chain {name} {{\n{_indent(content)}  }}\n" for name, content in chains.items())
    return head + body + "}\n"


def _indent(content: list[str]) -> str:
    return "".join(f"    {line}\n" for line in content)
