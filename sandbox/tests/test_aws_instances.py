"""EC2's instances: their states, what a machine is made of, and who may reach it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from goud_sandbox.room.firewall import render
from goud_sandbox.room.model import Machine, Rule

from .aws import PUBLIC_KEY, REGION, Account, refusal


def machine(account: Account, instance: str) -> Machine:
    return next(machine for machine in account.amazon.desired().machines if machine.id == instance)


def rules(account: Account) -> list[tuple[str, tuple[str, ...], str, tuple[str, ...]]]:
    rules = account.amazon.desired().rules
    return sorted((rule.direction, rule.peers, rule.protocol, rule.ports) for rule in rules if rule.allow)


def group(account: Account, name: str, subnet: str) -> str:
    vpc = account.ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    return str(account.ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"])


def test_an_instance_is_pending_until_its_machine_is_up(account: Account) -> None:
    account.hold = True
    instance = account.instance()
    assert account.state(instance) == "pending"
    assert machine(account, instance).running
    account.hold = False
    account.becomes(lambda: account.state(instance), "running")


def test_one_whose_machine_cannot_be_made_is_terminated_with_the_reason(account: Account) -> None:
    account.hold = True
    instance = account.instance()
    account.room_errors[f"machine:{instance}"] = "port is taken"
    account.hold = False
    account.becomes(lambda: account.state(instance), "terminated")
    assert account.describe_instance(instance)["StateReason"]["Message"] == "Server.InternalError: port is taken"
    assert account.amazon.desired().machines == ()


def test_stop_start_and_terminate_follow_the_machine(account: Account) -> None:
    instance = account.running_instance()
    account.hold = True
    account.ec2.stop_instances(InstanceIds=[instance])
    assert account.state(instance) == "stopping"
    assert not machine(account, instance).running
    account.hold = False
    account.becomes(lambda: account.state(instance), "stopped")
    account.ec2.start_instances(InstanceIds=[instance])
    account.becomes(lambda: account.state(instance), "running")
    account.ec2.start_instances(InstanceIds=[instance])  # harmless
    assert account.state(instance) == "running"
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.becomes(lambda: account.state(instance), "terminated")
    account.ec2.terminate_instances(InstanceIds=[instance])  # harmless
    assert refusal(account.ec2.start_instances, InstanceIds=[instance])[0] == "IncorrectInstanceState"


def test_a_machine_that_powers_off_by_itself_is_stopped_and_a_reboot_is_asked_of_it(account: Account) -> None:
    instance = account.running_instance()
    account.ec2.reboot_instances(InstanceIds=[instance])
    assert (account.reboots, account.state(instance)) == ([instance], "running")
    account.amazon.on_power_off(instance)
    assert account.state(instance) == "stopped"
    assert account.describe_instance(instance)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_protection_from_termination_holds(account: Account) -> None:
    instance = account.running_instance(DisableApiTermination=True)
    account.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": True})
    assert refusal(account.ec2.terminate_instances, InstanceIds=[instance])[0] == "OperationNotPermitted"
    account.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
    account.ec2.terminate_instances(InstanceIds=[instance])


def test_a_machine_has_key_script_addresses_and_disks(account: Account) -> None:
    account.ec2.import_key_pair(KeyName="deploy", PublicKeyMaterial=PUBLIC_KEY.encode())
    subnet = account.network()
    interface = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}
    devices = [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 10, "DeleteOnTermination": True}},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 20, "Encrypted": True, "DeleteOnTermination": False}},
    ]
    instance = account.running_instance(
        KeyName="deploy",
        NetworkInterfaces=[interface],
        BlockDeviceMappings=devices,
        UserData="#!/bin/sh\ntrue\n",
        MetadataOptions={"HttpTokens": "required"},
    )
    guest, document = machine(account, instance), account.describe_instance(instance)
    assert guest.users == {"admin": (PUBLIC_KEY,)}
    assert guest.first_boot_script == "#!/bin/sh\ntrue\n"
    assert (guest.address, guest.hostname) == (document["PrivateIpAddress"], "ip-10-31-1-4")
    assert (guest.external, document["PublicIpAddress"]) == ("127.0.31.128", "127.0.31.128")
    assert [attachment.disk for attachment in guest.attachments] == [
        document["BlockDeviceMappings"][1]["Ebs"]["VolumeId"]
    ]
    assert [disk.size >> 30 for disk in account.amazon.desired().disks] == [20]  # the boot disk has no device
    account.ec2.modify_instance_metadata_options(InstanceId=instance, HttpPutResponseHopLimit=2)
    options = account.describe_instance(instance)["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 2)
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.becomes(lambda: account.state(instance), "terminated")
    assert [volume["Size"] for volume in account.ec2.describe_volumes()["Volumes"]] == [20]


def test_a_root_volume_is_there_though_nobody_asked_for_it(account: Account) -> None:
    devices = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 20}}]
    instance = account.running_instance(BlockDeviceMappings=devices)
    assert {device["DeviceName"] for device in account.describe_instance(instance)["BlockDeviceMappings"]} == {
        "/dev/sdf",
        "/dev/xvda",
    }


def test_the_console_tells_the_host_keys_as_cloud_init_does(account: Account) -> None:
    instance = account.running_instance()
    text = account.ec2.get_console_output(InstanceId=instance)["Output"]
    assert text.splitlines()[0] == f"boot of {instance}"
    begin, end = "-----BEGIN SSH HOST KEY KEYS-----\n", "\n-----END SSH HOST KEY KEYS-----"
    assert text.split(begin)[1].split(end)[0] == "ssh-ed25519 AAAAhost root@ip-10-31-1-4"


def test_what_is_unknown_or_too_much_is_refused(account: Account) -> None:
    def code(**fields: Any) -> str:
        return refusal(account.instance, **fields)[0]

    assert code(ImageId="ami-11111111") == "InvalidAMIID.NotFound"
    assert code(KeyName="nobody") == "InvalidKeyPair.NotFound"
    assert code(InstanceType="t9.huge") == "InvalidParameterValue"
    assert code(InstanceType="t3.small", MaxCount=5, MinCount=5) == "VcpuLimitExceeded"


def test_an_elastic_address_moves_to_the_machine_and_away(account: Account) -> None:
    instance = account.running_instance()
    address = account.ec2.allocate_address(Domain="vpc")
    assert address["PublicIp"] == "127.0.31.128"
    assert machine(account, instance).external is None
    association = account.ec2.associate_address(InstanceId=instance, AllocationId=address["AllocationId"])
    assert machine(account, instance).external == "127.0.31.128"
    account.ec2.disassociate_address(AssociationId=association["AssociationId"])
    assert machine(account, instance).external is None


def test_the_image_is_debians_and_the_zones_are_three(account: Account) -> None:
    images = account.ec2.describe_images(
        Owners=["136693071363"],
        Filters=[{"Name": "name", "Values": ["debian-13-*"]}, {"Name": "architecture", "Values": ["x86_64"]}],
    )["Images"]
    assert [(image["Name"], image["RootDeviceName"]) for image in images] == [
        ("debian-13-amd64-20260101-2345", "/dev/xvda")
    ]
    zones = account.ec2.describe_availability_zones()["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in zones] == [f"{REGION}{letter}" for letter in "abc"]


def permission(protocol: str, port: int, **peers: Any) -> list[dict[str, Any]]:
    return [{"IpProtocol": protocol, "FromPort": port, "ToPort": port, **peers}]


def test_security_groups_open_ports_to_ranges_and_to_groups(account: Account) -> None:
    subnet = account.network()
    nodes, edge = group(account, "nodes", subnet), group(account, "edge", subnet)
    allow: Callable[..., Any] = account.ec2.authorize_security_group_ingress
    allow(GroupId=nodes, IpPermissions=permission("tcp", 9000, UserIdGroupPairs=[{"GroupId": nodes}]))
    allow(GroupId=nodes, IpPermissions=permission("tcp", 8080, UserIdGroupPairs=[{"GroupId": edge}]))
    allow(GroupId=nodes, IpPermissions=permission("tcp", 22, IpRanges=[{"CidrIp": "127.0.0.0/8"}]))
    allow(GroupId=edge, IpPermissions=permission("-1", -1, IpRanges=[{"CidrIp": "10.31.0.0/16"}]))
    first, second = (account.running_instance(SubnetId=subnet, SecurityGroupIds=[nodes]) for _ in range(2))
    front = account.running_instance(SubnetId=subnet, SecurityGroupIds=[edge])
    ip = {name: account.describe_instance(name)["PrivateIpAddress"] for name in (first, second, front)}
    assert rules(account) == [
        ("in", ("10.31.0.0/16",), "all", ()),
        ("in", (f"{ip[first]}/32", f"{ip[second]}/32"), "tcp", ("9000",)),
        ("in", (f"{ip[front]}/32",), "tcp", ("8080",)),
        ("in", ("127.0.0.0/8",), "tcp", ("22",)),
    ]
    table = render("t", account.amazon.desired())
    assert f"ip daddr {{ {ip[first]}, {ip[second]} }} ip saddr {{ {ip[front]}/32 }} tcp dport {{ 8080 }}" in table
    assert table.count("drop") == 1  # what nothing allows; outward everything is open


def test_a_group_without_open_egress_closes_the_way_out(account: Account) -> None:
    subnet = account.network()
    group_id = group(account, "closed", subnet)
    permissions = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    account.ec2.revoke_security_group_egress(GroupId=group_id, IpPermissions=permissions)
    account.ec2.authorize_security_group_egress(
        GroupId=group_id, IpPermissions=permission("tcp", 443, IpRanges=[{"CidrIp": "0.0.0.0/0"}])
    )
    account.running_instance(SubnetId=subnet, SecurityGroupIds=[group_id])
    outward = [rule for rule in account.amazon.desired().rules if rule.direction == "out"]
    assert [(rule.allow, rule.ports) for rule in outward] == [(True, ("443",)), (False, ())]
    assert isinstance(outward[0], Rule)


def test_user_data_that_is_no_script_is_left_alone(account: Account) -> None:
    text = base64.b64encode(b"#cloud-config\npackages: [chrony]\n").decode()
    assert machine(account, account.running_instance(UserData=text)).first_boot_script == ""
