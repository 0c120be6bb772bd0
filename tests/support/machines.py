"""A cluster on machines of the sandbox, used as an operator uses it: playbooks, an inventory, SSH, HTTP at the edge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.cluster import ROOT, Recap
from tests.support.workload import Account, Writer, lost

PROGRAMS = Path(sys.executable).parent
NODES = ("node1", "node2", "node3")
NAME = "chain.goud.test"
TOLD = "goud-told"  # by this name what a machine tells people of a failed unit is in its journal


def _plain(node: dict[str, Any]) -> Any:
    """The listing marks what the provider told; here it is compared, not templated."""
    return node["__ansible_unsafe"] if set(node) == {"__ansible_unsafe"} else node


class Machines:
    """One provider's sandbox and the cluster in it."""

    def __init__(self, provider: str, state: Path, *, loopback: str, port: int, network: str) -> None:
        self.provider = provider
        self.cluster = f"goud-test-{provider}"
        self._base = {
            **os.environ,
            "ANSIBLE_NOCOLOR": "1",
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "sandbox/src"),
            "GOUD_SANDBOX_STATE": str(state),
        }
        self.sandbox("up", provider, "--name", f"test-{provider}", "--loopback", loopback, "--port", str(port))
        told: dict[str, str] = json.loads(self.sandbox("env", provider, "--json"))
        self.environment = {
            **self._base,
            **told,
            "GOUD_CLUSTER": self.cluster,
            "GOUD_BUCKET": f"{self.cluster}-backups",
        }
        project = f"{told['GCP_PROJECT']}-" if provider == "gcp" else ""
        self.bucket = f"{project}{self.cluster}-backups"
        self.zone = "goud-test" if provider == "gcp" else "goud.test"  # its name at Google, its domain at Amazon
        given = {
            "goud_secrets_dir": f"{state}/secrets",
            "cloud_network_dns_provider": provider,
            "cloud_network_dns_zone": self.zone,
            "cloud_network_dns_name": NAME,
            "cloud_network_range": network,
            "timers_notify_command": f"logger --tag {TOLD}",
        }
        self._options = ["-e", json.dumps(given)]
        self._hosts: dict[str, dict[str, str]] = {}

    def sandbox(self, *arguments: str) -> str:
        """The sandbox's command line; what it printed."""
        command = [sys.executable, "-m", "goud_sandbox.cli", *arguments]
        done = subprocess.run(command, env=self._base, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"sandbox {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def playbook(self, verb: str, *arguments: str, environment: dict[str, str] | None = None) -> Recap:
        """Run `<verb>.yml` on the provider's inventory; the recap says what changed."""
        program = str(PROGRAMS / "ansible-playbook")
        command = [program, f"{verb}.yml", "-i", f"inventories/{self.provider}", *self._options, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment or self.environment, capture_output=True, text=True, check=False
        )
        return Recap.of(done)

    def rows(self, verb: str, *arguments: str) -> list[dict[str, str]]:
        """The rows of the table that a verb ends with, by column."""
        command = [str(PROGRAMS / "ansible-playbook"), f"{verb}.yml", "-i", f"inventories/{self.provider}"]
        done = subprocess.run(
            [*command, *self._options, *arguments],
            cwd=ROOT,
            env={**self.environment, "GOUD_OUTPUT": "json"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{verb}: {done.stdout}{done.stderr}")
        found: list[dict[str, str]] = json.loads(done.stdout)["reports"][-1]["rows"]
        return found

    def make_zone(self) -> None:
        """The operator's own DNS zone, in which the cluster gets its name."""
        if self.provider == "gcp":
            self.module("google.cloud.gcp_dns_managed_zone", name=self.zone, dns_name="goud.test.", description="Test")
        else:
            self.module("amazon.aws.route53_zone", zone=self.zone)

    def name_leads_to(self) -> list[str]:
        """The addresses that the cluster's name has at the provider's name service."""
        if self.provider == "gcp":
            zones = f"https://dns.googleapis.com/dns/v1/projects/{self.environment['GCP_PROJECT']}/managedZones"
            told = self.module("goud_gcp_read", urls={"record": f"{zones}/{self.zone}/rrsets/{NAME}./A"})
            return list((told["found"]["record"] or {}).get("rrdatas", []))
        zones = self._route53("list_hosted_zones", "HostedZones")
        records = self._route53("list_resource_record_sets", "ResourceRecordSets", HostedZoneId=zones[0]["Id"])
        return [one["Value"] for record in records if record["Name"] == f"{NAME}." for one in record["ResourceRecords"]]

    def _route53(self, call: str, key: str, **arguments: str) -> Any:
        wanted = {"service": "route53", "call": call, "key": key, "arguments": arguments}
        return self.module("goud_aws_read", calls={"it": wanted})["found"]["it"]

    def module(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a module on this machine, as an operator does whom no verb serves; what it returned."""
        command = [str(PROGRAMS / "ansible"), "localhost", "-i", "localhost,", "-c", "local", "-m", name]
        command += ["-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps(arguments)]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
        returned: dict[str, Any] = json.loads(done.stdout.partition("=>")[2])
        return returned

    # -- the machines -----------------------------------------------------------------------------------------------
    def host(self, name: str) -> dict[str, str]:
        """What the inventory tells of a machine."""
        if not self._hosts:
            command = [
                str(PROGRAMS / "ansible-inventory"),
                "-i",
                f"inventories/{self.provider}",
                "--list",
                *self._options,
            ]
            done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True)
            self._hosts = json.loads(done.stdout, object_hook=_plain)["_meta"]["hostvars"]
        return self._hosts[name]

    def forget(self) -> None:
        """Read the inventory again the next time."""
        self._hosts = {}

    def run(self, name: str, script: str, *, check: bool = True) -> str:
        """Run a shell script as root on a machine, through Ansible's own connection."""
        command = [str(PROGRAMS / "ansible"), name, "-i", f"inventories/{self.provider}", *self._options]
        command += ["--become", "-m", "ansible.builtin.shell", "-a", script]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{script!r} on {name}: {done.stdout}{done.stderr}")
        return done.stdout.partition(">>")[2].strip()

    def seen(self) -> dict[str, Any]:
        """The machine room's own view: machines and disks by id."""
        document: dict[str, Any] = json.loads(self.sandbox("status", "--json"))
        return document

    def snapshots(self) -> set[str]:
        """The machine room's ids of the snapshots."""
        return {name for name in self.seen()["disks"] if "snap" in name}

    def machine_id(self, name: str) -> str:
        """The machine room's id of a machine."""
        address = self.host(name)["ansible_host"]
        machines: dict[str, dict[str, str]] = self.seen()["machines"]
        return next(key for key, about in machines.items() if about["external"] == address)

    def disk_id(self, name: str) -> str:
        """The machine room's id of a node's data disk, by the device that its machine has."""
        device = self.run(name, f"readlink -f {self.host(name)['data_disk_device']}")
        minor = int(device.removeprefix("/dev/loop"))
        disks: dict[str, dict[str, int]] = self.seen()["disks"]
        return next(key for key, about in disks.items() if about["minor"] == minor)

    # -- the cluster ------------------------------------------------------------------------------------------------
    @property
    def front(self) -> str:
        """Where clients come in."""
        return f"http://{self.host('edge1')['ansible_host']}:8080"

    def assert_nothing_failed(self, writers: list[Writer]) -> None:
        """Every request was answered, and every acknowledged write reads back."""
        for writer in writers:
            assert writer.acknowledged, "a writer had nothing acknowledged: the test proved nothing"
            assert not writer.failed, writer.failed[:3]
            assert not lost(writer.acknowledged, Account(self.front, writer.account.api_key))

    @contextmanager
    def writing(self, count: int = 2) -> Iterator[list[Writer]]:
        """Writers that take every failed request for a failure, through the edge, as long as the block lasts."""
        writers = [Writer(Account(self.front), persistent=False, pause=0.05) for _ in range(count)]
        for writer in writers:
            writer.start()
        try:
            yield writers
        finally:
            for writer in writers:
                writer.finish()
