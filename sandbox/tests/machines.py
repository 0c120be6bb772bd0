"""A whole sandbox for tests that boot machines, and the real modules run against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goud_sandbox import control
from goud_sandbox.room.engine import Engine
from goud_sandbox.settings import Home, Settings

BIN = Path(sys.executable).parent
USER = "deploy"
ZONE, REGION = "europe-west4-a", "europe-west4"
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {size: 2}
  tasks:
    - google.cloud.gcp_compute_network: {name: net, auto_create_subnetworks: false}
      register: net
    - google.cloud.gcp_compute_subnetwork:
        {name: sub, region: REGION, ip_cidr_range: 10.213.7.0/24, network: "{{ net }}"}
      register: subnet
    - google.cloud.gcp_compute_firewall:
        name: ssh
        network: "{{ net }}"
        source_ranges: [127.0.0.0/8]
        target_tags: [node]
        allowed: [{ip_protocol: tcp, ports: ['22']}]
    - google.cloud.gcp_compute_firewall:
        name: peers
        network: "{{ net }}"
        source_tags: [node]
        target_tags: [node]
        allowed: [{ip_protocol: tcp, ports: ['9000']}]
    - google.cloud.gcp_compute_disk: {name: data, zone: ZONE, size_gb: "{{ size }}", labels: {cluster: goud}}
      register: disk
    - google.cloud.gcp_compute_instance:
        name: "{{ item }}"
        zone: ZONE
        machine_type: e2-medium
        labels: {role: node}
        tags: {items: [node]}
        metadata: {ssh-keys: "deploy:{{ lookup('file', 'key.pub') }}", enable-guest-attributes: 'TRUE'}
        network_interfaces:
          - network: "{{ net }}"
            subnetwork: "{{ subnet }}"
            access_configs: [{name: External NAT, type: ONE_TO_ONE_NAT}]
        disks: "{{ [boot] + ([data] if item == 'one' else []) }}"
        status: RUNNING
      vars:
        boot:
          auto_delete: true
          boot: true
          initialize_params: {source_image: projects/debian-cloud/global/images/family/debian-13, disk_size_gb: 10}
        data: {source: "{{ disk }}", device_name: data, auto_delete: false}
      loop: [one, two]
      loop_control: {label: "{{ item }}"}
""".replace("ZONE", ZONE).replace("REGION", REGION)
REST = (
    """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {state: present}
  tasks:
    - google.cloud.gcp_compute_resource_policy:
        name: daily
        region: REGION
        state: "{{ state }}"
        snapshot_schedule_policy:
          schedule: {daily_schedule: {days_in_cycle: 1, start_time: '04:00'}}
          retention_policy: {max_retention_days: 7, on_source_disk_delete: KEEP_AUTO_SNAPSHOTS}
    - google.cloud.gcp_compute_address: {name: edge, region: REGION, state: "{{ state }}"}
    - google.cloud.gcp_compute_disk: {name: small, zone: ZONE, size_gb: 1}
    - google.cloud.gcp_compute_snapshot:
        {name: small-one, zone: ZONE, source_disk: {name: small}, labels: {kind: test}, state: "{{ state }}"}
    - google.cloud.gcp_storage_bucket:
        name: goud-backups
        location: CAPITALS
        storage_class: STANDARD
        versioning: {enabled: true}
        lifecycle: {rule: [{action: {type: Delete}, condition: {age_days: 30, is_live: false}}]}
        labels: {cluster: goud}
        state: "{{ state }}"
    - google.cloud.gcp_iam_service_account:
        name: "goud-node@{{ lookup('env', 'GCP_PROJECT') }}.iam.gserviceaccount.com"
        display_name: Node
        state: "{{ state }}"
    - google.cloud.gcp_iam_role:
        name: backupWriter
        title: Backup writer
        included_permissions: [storage.objects.create, storage.objects.get, storage.objects.list]
        stage: GA
        state: "{{ state }}"
    - google.cloud.gcp_dns_managed_zone: {name: zone, dns_name: example.test., description: Test}
      register: zone
    - google.cloud.gcp_dns_resource_record_set:
        name: goud.example.test.
        type: A
        ttl: 60
        target: [192.0.2.7]
        managed_zone: {name: zone, dnsName: example.test.}
        state: "{{ state }}"
    - google.cloud.gcp_dns_managed_zone: {name: zone, dns_name: example.test., description: Test, state: "{{ state }}"}
    - google.cloud.gcp_compute_disk: {name: small, zone: ZONE, size_gb: 1, state: "{{ state }}"}
    - google.cloud.gcp_compute_disk_info: {zone: ZONE, filters: ['name = small']}
      register: disks
    - google.cloud.gcp_compute_instance_info: {zone: ZONE}
    - google.cloud.gcp_compute_snapshot_info: {}
    - google.cloud.gcp_compute_network_info: {}
    - assert: {that: (disks.resources | length == 1) == (state == 'present')}
""".replace("ZONE", ZONE)
    .replace("REGION", REGION)
    .replace("CAPITALS", REGION.upper())
)
INVENTORY = """
plugin: google.cloud.gcp_compute
projects: [PROJECT]
filters: ["labels.role = node", "status = RUNNING"]
keyed_groups: [{key: labels.role, prefix: role}]
hostnames: [name]
compose: {"ansible_host": "networkInterfaces[0].accessConfigs[0].natIP"}
strict: true
"""


def clear(settings: Settings, home: Home) -> None:
    """Remove what a run of the tests that was cut off has left under this name; one whose service runs is let alone."""
    folder = Engine(settings, home).other_folder()
    if folder is None or control.alive(Home(folder)) is not None:
        return
    if Home(folder).settings.exists():
        control.down(Home(folder))
    else:
        Engine(settings, home).remove_everything()


class Box:
    """One running sandbox with its client's environment and a folder for playbooks."""

    defaults = Settings(name="test", project="box", loopback="127.0.113", proxy_port=18180)
    user = USER
    inventory_file = "gcp.yml"

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "state")
        settings = Settings(**self._ports())
        clear(settings, self.home)
        self.settings = control.up(self.home, settings)
        self.folder = folder
        self.environment = os.environ | self.client()
        self.environment |= {"ANSIBLE_LOCALHOST_WARNING": "False", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
        self.environment |= {"ANSIBLE_INVENTORY_UNPARSED_WARNING": "False", "ANSIBLE_HOME": str(folder / "ansible")}
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
        for name, text in self.books().items():
            (folder / name).write_text(text)

    def client(self) -> dict[str, str]:
        """The environment that leads here."""
        return control.environment(self.home)

    def books(self) -> dict[str, str]:
        """Playbooks and the inventory, by file name."""
        inventory = INVENTORY.replace("PROJECT", self.settings.project)
        return {"play.yml": PLAY, "rest.yml": REST, self.inventory_file: inventory}

    def _ports(self) -> dict[str, Any]:
        defaults = self.defaults
        base = defaults.proxy_port
        ports = {"proxy_port": base, "admin_port": base + 1, "api_port": base + 2, "aws_port": base + 3}
        ports["metadata_port"] = base + 4
        upstream = os.environ.get("HTTPS_PROXY", "")
        return {
            "name": defaults.name,
            "project": defaults.project,
            "loopback": defaults.loopback,
            "upstream_proxy": upstream,
        } | ports

    def close(self) -> None:
        """Remove everything."""
        control.down(self.home)

    def as_service_account(self) -> None:
        """Use a key file from here on: the record set's module cannot use an access token."""
        self.environment.pop("GCP_ACCESS_TOKEN")
        self.environment |= control.environment(self.home, "serviceaccount")

    def play(self, *arguments: str, book: str = "play.yml") -> dict[str, Any]:
        """Run the playbook; the whole answer of Ansible's JSON callback."""
        command = [str(BIN / "ansible-playbook"), "-i", "localhost,", book, *arguments]
        environment = self.environment | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        process = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        try:
            answer: dict[str, Any] = json.loads(process.stdout[process.stdout.index("{") :])
        except ValueError as error:
            raise AssertionError(f"{process.stdout}\n{process.stderr}") from error
        return answer

    def changes(self, *arguments: str, book: str = "play.yml") -> int:
        """How many tasks changed something; an error when the play failed."""
        answer = self.play(*arguments, book=book)
        stats = answer["stats"]["localhost"]
        results = [(task["task"]["name"], task["hosts"]["localhost"]) for task in answer["plays"][0]["tasks"]]
        failures = [(name, result.get("msg"), result) for name, result in results if result.get("failed")]
        assert stats["failures"] == stats["unreachable"] == 0, failures
        return int(stats["changed"])

    def inventory(self) -> dict[str, Any]:
        """What the inventory plugin finds."""
        command = [str(BIN / "ansible-inventory"), "-i", self.inventory_file, "--list"]
        environment = self.environment | {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True"}
        process = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert process.returncode == 0, process.stderr
        inventory: dict[str, Any] = json.loads(process.stdout)
        return inventory

    def address(self, host: str) -> str:
        """The machine's external address."""
        machine = control.call(self.settings, "GET", "/status")["machines"][self.machine(host)]
        return str(machine["external"])

    def machine(self, host: str) -> str:
        """The room's id of an instance."""
        return f"gcp-{ZONE}-{host}"

    def ssh(self, host: str, script: str, *, known_hosts: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script on a machine by the real client; host keys checked when ``known_hosts`` is given."""
        keys = known_hosts or Path("/dev/null")
        options = [f"UserKnownHostsFile={keys}", f"StrictHostKeyChecking={'yes' if known_hosts else 'no'}"]
        options += ["ConnectTimeout=5", "BatchMode=yes", "LogLevel=ERROR"]
        command = ["ssh", "-F", "/dev/null", "-i", str(self.folder / "key")]
        command += [part for option in options for part in ("-o", option)]
        return subprocess.run(
            [*command, f"{self.user}@{self.address(host)}", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def sudo(self, host: str, script: str) -> str:
        """Run a script as root; its output, or an error with all it said."""
        process = self.ssh(host, f"sudo sh -euc {_quote(script)}")
        assert process.returncode == 0, f"{script}\n{process.stdout}\n{process.stderr}"
        return process.stdout.strip()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A call of the admin API."""
        return control.call(self.settings, method, path, body)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def wait_until(check: Callable[[], bool], seconds: float = 30.0, event: str = "it") -> None:
    """Wait until ``check`` holds; an error after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"{event} did not come true within {seconds} s"
        time.sleep(0.2)
