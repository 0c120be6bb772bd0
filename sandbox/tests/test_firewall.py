"""The rules that the room hands to nftables. That they hold between machines is proven in test_machines."""

from __future__ import annotations

from goud_sandbox.room.firewall import render
from goud_sandbox.room.model import Desired, Door, Machine, Rule, Subnet

SUBNET = Subnet("net", "10.1.0.0/24")
MACHINE = Machine("one", "one", "net", "10.1.0.2", "127.0.1.1", running=True)


def inward(*rules: Rule) -> list[str]:
    text = render("box", Desired(subnets=(SUBNET,), machines=(MACHINE,), rules=rules))
    return [line.strip() for line in text.split("chain machine_in {")[1].split("}\n")[0].splitlines() if line.strip()]


def test_nothing_is_open_without_a_rule() -> None:
    assert inward() == ["ip daddr { 10.1.0.2 } counter drop"]


def test_the_operator_comes_in_where_a_range_holds_its_address() -> None:
    ssh = Rule(1000, True, "in", (MACHINE.address,), ("127.0.0.0/8",), "tcp", ("22",))
    assert "10.1.0.1" in inward(ssh)[0]
    foreign = Rule(1000, True, "in", (MACHINE.address,), ("192.0.2.0/24",), "tcp", ("22",))
    assert "10.1.0.1" not in inward(foreign)[0]


def test_the_lowest_priority_wins_and_deny_goes_before_allow() -> None:
    machines, peers = (MACHINE.address,), ("0.0.0.0/0",)
    allow = Rule(1000, True, "in", machines, peers, "tcp", ("80",))
    deny = Rule(1000, False, "in", machines, peers, "tcp", ("80",))
    first = Rule(10, True, "in", machines, peers, "tcp", ("81",))
    verdicts = [line.split("dport ")[-1] for line in inward(allow, deny, first)[:3]]
    assert verdicts == ["{ 81 } counter accept", "{ 80 } counter drop", "{ 80 } counter accept"]


def test_a_rule_for_no_machine_is_no_rule() -> None:
    assert inward(Rule(1000, True, "in", (), ("0.0.0.0/0",))) == inward()
    assert inward(Rule(1000, True, "in", (MACHINE.address,), ())) == inward()


def test_a_cut_off_machine_is_dropped_before_established_connections() -> None:
    text = render("box", Desired(subnets=(SUBNET,), machines=(MACHINE,), cut_off=frozenset({"one"})))
    for chain in ("forward", "output"):
        body = text.split(f"chain {chain} {{")[1].split("}\n  }")[0]
        assert body.index("ip daddr { 10.1.0.2 } drop") < body.index("ct state established")
    assert "ip saddr { 10.1.0.2 } drop" in text.split("chain input {")[1]


def test_doors_lead_each_bridges_machines_to_its_own_address() -> None:
    other = Subnet("more", "10.2.0.0/24")
    text = render("box", Desired(subnets=(SUBNET, other), machines=(MACHINE,)), (Door("169.254.169.254", 80, 7084),))
    lines = text.split("chain doors {")[1].split("}\n")[0]
    assert "type nat hook prerouting" in lines
    assert "ip saddr 10.1.0.0/24 ip daddr 169.254.169.254 tcp dport 80 dnat ip to 10.1.0.1:7084" in lines
    assert "ip saddr 10.2.0.0/24 ip daddr 169.254.169.254 tcp dport 80 dnat ip to 10.2.0.1:7084" in lines


def test_nothing_else_that_is_link_local_is_reached() -> None:
    text = render("box", Desired(subnets=(SUBNET,), machines=(MACHINE,)))
    forward = text.split("chain forward {")[1].split("}\n  }")[0]
    assert "ip saddr { 10.1.0.2 } ip daddr 169.254.0.0/16 counter reject" in forward
    assert forward.index("169.254.0.0/16") < forward.index("jump machine_out")
