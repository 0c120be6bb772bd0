"""The real google.cloud modules and the real inventory plugin make real machines; each test proves an effect on one.

In order: later tests use what the first one made.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from goud_sandbox import authority, control
from goud_sandbox.room.engine import Engine

from .machines import ZONE, Box, wait_until

pytestmark = [pytest.mark.sandbox, pytest.mark.filterwarnings("default")]

GIB = 1 << 30
DEVICE = "/dev/disk/by-id/google-data"
DISK = f"gcp-disk-{ZONE}-data"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    sandbox = Box(tmp_path_factory.mktemp("box"))
    try:
        yield sandbox
    finally:
        sandbox.close()


def api(box: Box, path: str, method: str = "GET", **options: object) -> httpx.Response:
    trust = authority.context(box.home.tls / "authority.pem")
    proxy = box.environment["HTTPS_PROXY"]
    headers = {"Authorization": f"Bearer {box.environment['GCP_ACCESS_TOKEN']}"}
    with httpx.Client(proxy=proxy, verify=trust, trust_env=False, timeout=30) as client:
        url = f"https://compute.googleapis.com/compute/v1/projects/{box.settings.project}/{path}"
        return client.request(method, url, headers=headers, **options)  # type: ignore[arg-type] # passed through


def wait(box: Box, answer: httpx.Response) -> None:
    operation = answer.raise_for_status().json()
    path = operation["selfLink"].split(f"/projects/{box.settings.project}/")[1]
    result = api(box, f"{path}/wait", "POST").json()
    assert (result["status"], result.get("error")) == ("DONE", None)


def test_the_modules_make_everything_and_a_second_run_changes_nothing(box: Box) -> None:
    assert box.changes() == 6
    assert box.changes() == 0


def test_the_inventory_finds_the_machines_by_label(box: Box) -> None:
    inventory = box.inventory()
    assert sorted(inventory["role_node"]["hosts"]) == ["one", "two"]
    variables = inventory["_meta"]["hostvars"]["one"]
    assert "node" in str(variables["labels"]["role"])  # marked unsafe by the listing
    assert box.address("one") in str(variables["ansible_host"])


def test_the_other_modules_make_change_nothing_and_remove(box: Box) -> None:
    before = box.environment
    box.environment = dict(before)
    box.as_service_account()
    assert box.changes(book="rest.yml") == 9
    assert box.changes(book="rest.yml") == 0
    assert box.changes("-e", "state=absent", book="rest.yml") == 9
    box.environment = before


def test_googles_own_storage_client_works_with_the_key_file(box: Box) -> None:
    program = """
import sys
from google.api_core.exceptions import PreconditionFailed
from google.cloud import storage
client = storage.Client()
bucket = client.create_bucket("library", location="europe-west4")
blob = bucket.blob("folder/one")
blob.chunk_size = 1 << 18
blob.upload_from_string(b"x" * 700_000, if_generation_match=0, checksum="crc32c")
try:
    bucket.blob("folder/one").upload_from_string(b"y", if_generation_match=0)
except PreconditionFailed:
    print("guarded")
assert bucket.blob("folder/one").download_as_bytes(checksum="crc32c") == b"x" * 700_000
assert bucket.blob("folder/one").download_as_bytes(start=5, end=9) == b"x" * 5
bucket.blob("folder/two").compose([bucket.blob("folder/one"), bucket.blob("folder/one")])
bucket.copy_blob(bucket.blob("folder/two"), bucket, "three")
print(sorted((item.name, item.size) for item in client.list_blobs("library")))
bucket.delete_blobs(list(client.list_blobs("library")))
bucket.delete()
"""
    process = subprocess.run(
        [sys.executable, "-c", program], env=box.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert process.stdout.splitlines() == [
        "guarded",
        "[('folder/one', 700000), ('folder/two', 1400000), ('three', 1400000)]",
    ], process.stderr


def test_ssh_with_the_host_key_that_the_api_tells(box: Box, tmp_path: Path) -> None:
    answer = api(box, f"zones/{ZONE}/instances/one/getGuestAttributes?queryPath=hostkeys/").raise_for_status().json()
    keys = answer["queryValue"]["items"]
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("".join(f"{box.address('one')} {key['key']} {key['value']}\n" for key in keys))
    process = box.ssh("one", "hostname; systemctl is-system-running --wait; sudo id -u", known_hosts=known_hosts)
    assert process.stdout.split() == ["one", "running", "0"], process.stderr
    assert box.ssh("two", "true", known_hosts=known_hosts).returncode != 0  # another machine has another key


def test_the_disk_has_the_providers_name_and_takes_a_file_system(box: Box) -> None:
    assert int(box.sudo("one", f"blockdev --getsize64 {DEVICE}")) == 2 * GIB
    box.sudo("one", f"mkfs.xfs -q {DEVICE} && mkdir -p /mnt/data")
    wait_until(lambda: box.ssh("one", "ls /dev/disk/by-uuid").stdout.strip() != "", event="the by-uuid link")
    box.sudo("one", f"echo UUID=$(blkid -s UUID -o value {DEVICE}) /mnt/data xfs defaults 0 2 >> /etc/fstab")
    box.sudo("one", "systemctl daemon-reload; systemctl start mnt-data.mount; echo kept > /mnt/data/file")
    assert box.sudo("one", "findmnt -no FSTYPE /mnt/data") == "xfs"


def size(box: Box) -> int:
    return int(box.sudo("one", f"blockdev --getsize64 {DEVICE}"))


def test_the_disk_grows_under_the_mounted_file_system(box: Box) -> None:
    assert box.changes("-e", "size=3") == 1
    wait_until(lambda: size(box) == 3 * GIB, event="the device's new size")
    box.sudo("one", "xfs_growfs -d /mnt/data")
    assert int(box.sudo("one", "df --output=size -B1 /mnt/data | tail -1")) > 2.8 * GIB
    assert box.sudo("one", "cat /mnt/data/file") == "kept"


def test_a_shrink_is_refused(box: Box) -> None:
    answer = api(box, f"zones/{ZONE}/disks/data/resize", "POST", json={"sizeGb": 2})
    assert answer.status_code == 400
    assert "larger than existing size '3'" in answer.text
    assert size(box) == 3 * GIB


def test_a_lying_resize_is_seen_on_the_device_only(box: Box) -> None:
    box.call("PUT", "/faults/api/liar", {"kind": "lie_device", "path": "/disks/data/resize", "times": 1})
    wait(box, api(box, f"zones/{ZONE}/disks/data/resize", "POST", json={"sizeGb": 4}))
    assert api(box, f"zones/{ZONE}/disks/data").json()["sizeGb"] == "4"
    assert size(box) == 3 * GIB
    wait(box, api(box, f"zones/{ZONE}/disks/data/resize", "POST", json={"sizeGb": 5}))
    wait_until(lambda: size(box) == 5 * GIB, event="the honest resize")


def test_a_machine_installs_packages(box: Box) -> None:
    box.sudo("two", "apt-get -qq update && apt-get -qq install -y --no-install-recommends tree >/dev/null")
    assert "tree" in box.sudo("two", "tree --version")


def reaches(box: Box, port: int) -> bool:
    script = f"import socket; socket.create_connection(('two', {port}), 2)"
    return box.ssh("one", f'python3 -c "{script}"').returncode == 0


def test_the_firewall_stands_between_the_machines(box: Box) -> None:
    serve = "systemd-run -q --unit=serve-{0} python3 -m http.server {0} --directory /usr/share/doc"
    for port in (9000, 9001):
        box.sudo("two", serve.format(port))
    wait_until(lambda: reaches(box, 9000), event="the peers' port")
    assert not reaches(box, 9001)
    assert not reaches(box, 22)  # open to the operator, not to the neighbour
    rule = {"name": "more", "network": "global/networks/net", "allowed": [{"IPProtocol": "tcp", "ports": ["9001"]}]}
    wait(box, api(box, "global/firewalls", "POST", json=rule))
    assert reaches(box, 9001)
    box.sudo("two", "nft flush ruleset")  # whatever the guest does to its own rules
    wait(box, api(box, "global/firewalls/more", "DELETE"))
    assert not reaches(box, 9001)


def test_a_partition_cuts_and_heals(box: Box) -> None:
    box.call("POST", f"/faults/machines/{box.machine('two')}/partition")
    assert not reaches(box, 9000)
    assert box.ssh("two", "true").returncode != 0
    box.call("POST", f"/faults/machines/{box.machine('two')}/heal")
    wait_until(lambda: reaches(box, 9000), event="the healed network")


def test_a_snapshot_under_load_makes_a_disk_with_the_data(box: Box) -> None:
    writer = (
        "systemd-run -q --unit=writer sh -c 'while true; do date +%N >> /mnt/data/log; sync -f /mnt/data/log; done'"
    )
    box.sudo("one", writer)
    wait(box, api(box, f"zones/{ZONE}/disks/data/createSnapshot", "POST", json={"name": "snap"}))
    box.sudo("one", "systemctl stop writer; test -s /mnt/data/log")
    body = {"name": "copy", "sourceSnapshot": "global/snapshots/snap"}
    wait(box, api(box, f"zones/{ZONE}/disks", "POST", json=body))
    attach = {"source": f"zones/{ZONE}/disks/copy", "deviceName": "copy"}
    wait(box, api(box, f"zones/{ZONE}/instances/two/attachDisk", "POST", json=attach))
    link = "/dev/disk/by-id/google-copy"
    wait_until(lambda: box.ssh("two", f"test -b {link}").returncode == 0, event="the copy's device")
    box.sudo("two", f"mkdir -p /mnt/copy; xfs_repair -n {link} || true; mount -o nouuid {link} /mnt/copy")
    assert box.sudo("two", "cat /mnt/copy/file") == "kept"
    box.sudo("two", "umount /mnt/copy")
    wait(box, api(box, f"zones/{ZONE}/instances/two/detachDisk?deviceName=copy", "POST"))
    wait_until(lambda: box.ssh("two", f"test -e {link}").returncode != 0, event="the device's end")


def test_a_corrupted_disk_is_noticed(box: Box) -> None:
    box.call("POST", f"/faults/disks/gcp-disk-{ZONE}-copy/corrupt", {"offset": 0, "length": 4096})
    attach = {"source": f"zones/{ZONE}/disks/copy", "deviceName": "copy"}
    wait(box, api(box, f"zones/{ZONE}/instances/two/attachDisk", "POST", json=attach))
    link = "/dev/disk/by-id/google-copy"
    wait_until(lambda: box.ssh("two", f"test -b {link}").returncode == 0, event="the copy's device")
    assert box.ssh("two", f"sudo mount -t xfs -o nouuid {link} /mnt/copy").returncode != 0


def test_a_rebooted_machine_comes_back_with_its_disk_mounted(box: Box) -> None:
    box.sudo("one", "touch /run/before")
    box.ssh("one", "sudo systemctl reboot")
    script = "test ! -e /run/before && mountpoint -q /mnt/data"
    wait_until(lambda: box.ssh("one", script).returncode == 0, 60, "the machine with its mount")
    assert box.sudo("one", "cat /mnt/data/file") == "kept"
    assert api(box, f"zones/{ZONE}/instances/one").json()["status"] == "RUNNING"


def test_a_killed_machine_is_terminated_until_it_is_started(box: Box) -> None:
    box.call("POST", f"/faults/machines/{box.machine('two')}/kill")
    wait_until(
        lambda: bool(api(box, f"zones/{ZONE}/instances/two").json()["status"] == "TERMINATED"), event="TERMINATED"
    )
    assert sorted(box.inventory()["role_node"]["hosts"]) == ["one"]
    wait(box, api(box, f"zones/{ZONE}/instances/two/start", "POST"))
    wait_until(lambda: box.ssh("two", "true").returncode == 0, event="the machine")


def test_a_full_disk_is_full_and_a_pulled_one_gives_errors(box: Box) -> None:
    box.call("POST", f"/faults/disks/{DISK}/fill")
    assert box.ssh("one", "sudo dd if=/dev/zero of=/mnt/data/more bs=1M count=10 conv=fsync").returncode != 0
    box.call("POST", f"/faults/disks/{DISK}/unfill")
    box.sudo("one", "dd if=/dev/zero of=/mnt/data/more bs=1M count=10 conv=fsync status=none")
    box.call("POST", f"/faults/disks/{DISK}/detach")
    assert box.ssh("one", "sudo dd if=/dev/zero of=/mnt/data/more bs=1M count=10 conv=fsync").returncode != 0
    wait_until(lambda: box.ssh("one", f"test -e {DEVICE}").returncode != 0, event="the device's end")
    box.sudo("one", "umount -l /mnt/data")
    box.call("POST", f"/faults/disks/{DISK}/reattach")
    wait_until(lambda: box.ssh("one", f"test -b {DEVICE}").returncode == 0, event="the device")


def test_a_service_that_restarts_finds_everything_again(box: Box) -> None:
    control.stop(box.home)
    assert control.alive(box.home) is None
    control.up(box.home, box.settings)
    assert box.sudo("one", "hostname") == "one"
    assert box.changes("-e", "size=5") == 0


def test_the_modules_remove_and_down_leaves_nothing(box: Box) -> None:
    wait(box, api(box, f"zones/{ZONE}/instances/one", "DELETE"))
    assert box.machine("one") not in box.call("GET", "/status")["machines"]
    assert api(box, f"zones/{ZONE}/disks/data").json()["users"] == []
    assert api(box, f"zones/{ZONE}/disks/one").status_code == 404
    engine = Engine(box.settings, box.home)
    control.down(box.home)
    label = {"label": [f"io.goud-chain.sandbox={box.settings.name}"]}
    assert engine.client.containers.list(all=True, filters=dict(label)) == []
    assert engine.client.volumes.list(filters=dict(label)) == []
    assert engine.client.networks.list(filters=dict(label)) == []
    assert not box.home.root.exists()
    assert "box-" not in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
