"""The baseline as its neighbour sees it, and as the kernel and the daemons tell it."""

from __future__ import annotations

import pytest
from testinfra.host import Host

ONE, TWO = "ansible://one", "ansible://two"


def code(host: Host, port: int) -> str:
    """Ask `one` from this host: an HTTP status, or 000 when nothing gets through."""
    address = host.ansible.get_variables()["hostvars"]["one"]["machines_about"]["private"]
    return host.run(
        f"curl --silent --output /dev/null --max-time 3 --write-out '%{{http_code}}' http://{address}:{port}/"
    ).stdout


@pytest.mark.testinfra_hosts(TWO)
@pytest.mark.parametrize(
    ("port", "answer"),
    [(9000, "404"), (9001, "000"), (8080, "404"), (8090, "000")],
    ids=["a named port of the host", "an unnamed one", "a named port of a container", "an unnamed one of a container"],
)
def test_a_neighbour_reaches_what_is_named_for_it(host: Host, port: int, answer: str) -> None:
    assert code(host, port) == answer


@pytest.mark.testinfra_hosts(ONE)
def test_the_engines_tables_are_untouched(host: Host) -> None:
    with host.sudo():
        assert "8090" in host.check_output("nft list table ip nat 2>/dev/null")


@pytest.mark.testinfra_hosts(ONE)
def test_a_password_is_not_even_asked_for(host: Host) -> None:
    done = host.run(
        "ssh -o BatchMode=yes -o PubkeyAuthentication=no -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
        "goud@127.0.0.1 true"
    )
    assert done.rc == 255
    assert "Permission denied (publickey)" in done.stderr


@pytest.mark.testinfra_hosts(ONE)
def test_security_updates_would_run(host: Host) -> None:
    with host.sudo():
        done = host.run("unattended-upgrade --dry-run --debug")
        settings = host.check_output("apt-config dump")
    assert done.rc == 0, done.stderr
    assert "Debian-Security" in done.stdout
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in settings


@pytest.mark.testinfra_hosts(ONE)
def test_the_time_comes_from_the_server_that_was_named(host: Host) -> None:
    named = host.ansible.get_variables()["hostvars"]["two"]["machines_about"]["private"]
    assert f"^* {named}" in host.check_output("chronyc -n sources")


@pytest.mark.testinfra_hosts(ONE)
def test_the_journal_knows_its_limit(host: Host) -> None:
    with host.sudo():
        told = host.check_output("journalctl --unit systemd-journald --output cat --grep 'System Journal'")
    assert "max 1G" in told.splitlines()[-1]


@pytest.mark.testinfra_hosts(ONE)
def test_kernel_settings_are_in_force(host: Host) -> None:
    assert host.sysctl("net.core.somaxconn") == 8192
    assert host.check_output("sysctl -n net.ipv4.ip_local_port_range").split() == ["10240", "65535"]
