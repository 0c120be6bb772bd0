"""The firewall as a neighbour meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from testinfra.host import Host

testinfra_hosts = ["ansible://two?force_ansible=True"]  # the inventory is templated, which only Ansible reads
MACHINES = Path(__file__).resolve().parents[3] / ".state/machines"


def private(name: str) -> str:
    """Return a machine's address in its network."""
    return str(yaml.safe_load((MACHINES / f"{name}.yml").read_text())["private"])


def code(host: Host, port: int) -> str:
    """Ask `one` from this host: an HTTP status, or 000 when nothing gets through."""
    url = f"http://{private('one')}:{port}/"
    return host.run(f"curl --silent --output /dev/null --max-time 3 --write-out '%{{http_code}}' {url}").stdout


@pytest.mark.parametrize(
    ("port", "answer"),
    [(9000, "404"), (9001, "000"), (8080, "404"), (8090, "000")],
    ids=["a named port of the host", "an unnamed one", "a named port of a container", "an unnamed one of a container"],
)
def test_a_neighbour_reaches_what_is_named_for_it(host: Host, port: int, answer: str) -> None:
    assert code(host, port) == answer
