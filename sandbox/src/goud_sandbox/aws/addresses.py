"""Public addresses: loopback addresses of this host, from the upper half of the sandbox's range."""

from __future__ import annotations

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends, elastic_ip_addresses, elastic_network_interfaces
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE

from goud_sandbox.aws.context import ACCOUNT, current

FIRST, LAST = 128, 254  # the lower half is the other provider's


def addresses_in_use(backend: EC2Backend) -> set[str]:
    """Addresses of elastic IPs, of interfaces, and those a machine was made with."""
    addresses = {str(address.public_ip) for address in backend.addresses}
    addresses |= {str(interface.public_ip) for interface in backend.enis.values()}
    for reservation in backend.reservations.values():
        addresses |= {
            str(getattr(instance, "published", None))
            for instance in reservation.instances
            if instance.state != "terminated"
        }
    return addresses


def free() -> str:
    """The lowest address nobody has; AddressLimitExceeded when there is none."""
    account = ec2_backends[ACCOUNT]
    addresses = {address for region in list(account) for address in addresses_in_use(account[region])}
    for last in range(FIRST, LAST + 1):
        address = f"{current.settings.loopback}.{last}"
        if address not in addresses:
            return address
    raise EC2ClientError("AddressLimitExceeded", "The maximum number of addresses has been reached.")


def install() -> None:
    """Let moto ask here."""
    vars(elastic_ip_addresses)["random_ip"] = free
    vars(elastic_network_interfaces)["random_public_ip"] = free
    EC2_PREFIX_TO_RESOURCE["eipalloc"] = "elastic-ip"  # as DescribeTags names it
