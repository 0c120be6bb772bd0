"""The baseline as the kernel and the daemons tell it."""

from __future__ import annotations

from pathlib import Path

import yaml
from testinfra.host import Host

testinfra_hosts = ["ansible://one?force_ansible=True"]  # the inventory is templated, which only Ansible reads
MACHINES = Path(__file__).resolve().parents[3] / ".state/machines"


def private(name: str) -> str:
    """Return a machine's address in its network."""
    return str(yaml.safe_load((MACHINES / f"{name}.yml").read_text())["private"])


def test_the_engines_tables_are_untouched(host: Host) -> None:
    with host.sudo():
        assert "8090" in host.check_output("nft list table ip nat 2>/dev/null")


def test_a_password_is_not_even_asked_for(host: Host) -> None:
    done = host.run(
        "ssh -o BatchMode=yes -o PubkeyAuthentication=no -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
        "goud@127.0.0.1 true"
    )
    assert done.rc == 255
    assert "Permission denied (publickey)" in done.stderr


def test_security_updates_would_run(host: Host) -> None:
    with host.sudo():
        done = host.run("unattended-upgrade --dry-run --debug")
        settings = host.check_output("apt-config dump")
    assert done.rc == 0, done.stderr
    assert "Debian-Security" in done.stdout
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings


def test_the_time_comes_from_the_server_that_was_named(host: Host) -> None:
    assert f"^* {private('two')}" in host.check_output("chronyc -n sources")


def test_the_journal_knows_its_limit(host: Host) -> None:
    with host.sudo():
        told = host.check_output("journalctl --unit systemd-journald --output cat --grep 'System Journal'")
    assert "max 1G" in told.splitlines()[-1]


def test_kernel_settings_are_in_force(host: Host) -> None:
    assert host.sysctl("net.core.somaxconn") == 8192
    assert host.file("/proc/sys/net/ipv4/ip_local_port_range").content_string.split() == ["10240", "65535"]
