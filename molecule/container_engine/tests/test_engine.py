"""The engine of a host, as it is and not as it was written."""

from __future__ import annotations

import json

from testinfra.host import Host

testinfra_hosts = ["ansible://one?force_ansible=True"]  # the inventory is templated, which only Ansible reads


def test_the_engine_runs_now_and_after_a_reboot(host: Host) -> None:
    service = host.service("docker")
    assert service.is_running
    assert service.is_enabled


def test_settings_are_in_force(host: Host) -> None:
    with host.sudo():
        info = json.loads(host.check_output("docker info --format json"))
    assert info["LiveRestoreEnabled"]
    assert info["LoggingDriver"] == "json-file"
    assert info["Driver"] == "overlay2"


def test_a_new_container_rotates_its_log(host: Host) -> None:
    with host.sudo():
        name = host.check_output("docker create witness")
        (about,) = json.loads(host.check_output(f"docker inspect {name}"))
        host.check_output(f"docker rm {name}")
    assert about["HostConfig"]["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}


def test_no_proxy_process_stands_between_a_port_and_its_container(host: Host) -> None:
    with host.sudo():
        host.check_output("docker rm --force web 2>/dev/null; docker run --detach --name web --publish 8081:80 witness"
                          " /usr/bin/busybox httpd -f -p 80")  # fmt: skip
        answer = host.run("curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1:8081/")
        proxies = host.run("pgrep --exact docker-proxy")
        host.check_output("docker rm --force web")
    assert answer.stdout == "404"
    assert proxies.rc == 1
