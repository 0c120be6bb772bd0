"""Where nodes listen to peers and ask them: locally the internal network only, on machines the private address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import documentation

pytestmark = pytest.mark.programs

ROOT = documentation.ROOT
PRIVATE = {"node1": "10.80.0.2", "node2": "10.80.0.3", "node3": "10.80.0.4", "edge1": "10.80.0.5"}
PLAY = """---
- name: Render what a node is deployed with
  hosts: chain_nodes
  gather_facts: false
  become: false
  tasks:
    - name: Bring the roles' variables
      ansible.builtin.import_role: {name: chain_node, tasks_from: inspect}
      when: false
    - name: Write them
      ansible.builtin.copy:
        dest: "OUTPUT/{{ inventory_hostname }}.json"
        mode: "0600"
        content: "{{ rendered | to_json }}"
      delegate_to: localhost
      connection: local
      vars:
        ansible_python_interpreter: "{{ ansible_playbook_python }}"
        ansible_become: false
        rendered:
          listens: "{{ _chain_node_environment_base.GOUD_PEER_HOST }}"
          peers: "{{ chain_node_peers }}"
          ports: "{{ chain_node_published_ports }}"
          networks: "{{ chain_node_networks | map(attribute='name') | list }}"
          balancer: "{{ hostvars[groups['edge'] | first].load_balancer_networks | map(attribute='name') | list }}"
          internal: "{{ goud_networks | selectattr('internal', 'defined') | selectattr('internal')
                     | map(attribute='name') | list }}"
          backup: "{{ chain_backup_node_url }}"
          backup_peer_network: "{{ chain_backup_peer_network | default('') }}"
"""


def rendered(inventory: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """By node, what the inventory and the role make of it."""
    playbook, output = ROOT / f".peer-network-{os.getpid()}.yml", tmp_path / "rendered"
    output.mkdir()
    try:
        playbook.write_text(PLAY.replace("OUTPUT", str(output)))
        program = Path(sys.executable).with_name("ansible-playbook")
        environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
        command = [str(program), "-i", str(inventory), str(playbook)]
        result = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    finally:
        playbook.unlink()
    assert result.returncode == 0, result.stdout + result.stderr
    return {path.stem: json.loads(path.read_text()) for path in output.iterdir()}


@pytest.mark.parametrize("inventory", ["inventories/local", "tests/world"])
def test_containers_of_this_machine_listen_to_peers_on_the_internal_network_only(
    inventory: str, tmp_path: Path
) -> None:
    nodes = rendered(ROOT / inventory, tmp_path)
    assert len(nodes) == 3
    for name, node in nodes.items():
        (network,) = node["internal"]
        assert network in node["networks"]
        assert network not in node["balancer"]
        assert node["listens"] == f"{name}.{network}"
        assert {peer["node_id"]: peer["url"] for peer in node["peers"]} == {
            other: f"http://{other}.{network}:9000" for other in nodes
        }
        assert all(not port.endswith(":9000") for port in node["ports"])
        assert (node["backup"], node["backup_peer_network"]) == (f"http://{name}.{network}:9000", network)


@pytest.mark.parametrize("provider", ["gcp", "aws"])
def test_machines_listen_to_peers_on_their_private_address(provider: str, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "group_vars").symlink_to(ROOT / "inventories" / provider / "group_vars")
    nodes = [name for name in PRIVATE if name.startswith("node")]
    groups = {"chain_nodes": nodes, "coordination": nodes, "edge": ["edge1"], "machines": list(PRIVATE)}
    hosts = {name: {"goud_private_address": address} for name, address in PRIVATE.items()}
    children = {group: {"hosts": dict.fromkeys(names)} for group, names in groups.items()}
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": children}}))
    settings = rendered(inventory, tmp_path)
    assert sorted(settings) == nodes
    for name, node in settings.items():
        # All of the container's own network, on which nothing else is; the engine publishes the port on one address.
        assert node["listens"] == "0.0.0.0"  # noqa: S104 - compared
        ports = [port for port in node["ports"] if port.endswith(":9000")]
        assert ports == [f"{PRIVATE[name]}:9000:9000"]
        assert {peer["node_id"]: peer["url"] for peer in node["peers"]} == {
            other: f"http://{PRIVATE[other]}:9000" for other in nodes
        }
        assert (node["backup"], node["backup_peer_network"]) == (f"http://{PRIVATE[name]}:9000", "")
