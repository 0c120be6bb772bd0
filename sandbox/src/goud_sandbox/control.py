"""Bringing a sandbox up and taking it down, from outside its service."""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import shlex
import shutil
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from docker.errors import DockerException

from goud_sandbox import authority
from goud_sandbox.documents import Documents
from goud_sandbox.errors import NotRunning, SandboxError
from goud_sandbox.gcp.iam import Iam, email
from goud_sandbox.gcp.metadata import HOST
from goud_sandbox.room.engine import Engine
from goud_sandbox.room.keeper import Keeper
from goud_sandbox.settings import LABEL, MACHINES_PROXY_PORT, METADATA_ADDRESS, SERVICES_ADDRESS, Home, Settings

log = logging.getLogger(__name__)

START_SECONDS = 30
OPERATOR_ACCOUNT = "operator"
_children: list[
    subprocess.Popen[bytes]
] = []  # services outlive us; forgetting one while we live would look like a leak


def alive(home: Home) -> int | None:
    """Process id of the running service, or None. A number that belongs to somebody else by now is not it."""
    try:
        pid = int(home.pid.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return None
    state = command.partition("\0--state\0")[2].split("\0")[0]
    # A folder that was moved since has a path that its service was not started with.
    same_folder = state and (state == str(home.root) or not Path(state).exists())
    return pid if "goud_sandbox" in command and same_folder else None


def call(settings: Settings, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the admin API; ``SandboxError`` with its sentence when it refuses."""
    url = f"http://127.0.0.1:{settings.admin_port}{path}"
    try:
        answer = httpx.request(method, url, json=body, timeout=60, trust_env=False)
    except httpx.HTTPError as error:
        raise NotRunning(f"the sandbox's service does not answer at {url} ({error}): start it with `up`") from error
    document: dict[str, Any] = answer.json()
    if answer.is_error:
        raise SandboxError(str(document.get("error", document)))
    return document


def up(home: Home, settings: Settings) -> Settings:
    """Everything a sandbox needs, made once, and its service. Repeats are harmless; the settings that stand win."""
    if home.settings.exists():
        settings = Settings.load(home.settings)
    engine = Engine(settings, home)
    folder = engine.other_folder()
    if _has_moved(home, folder):
        raise SandboxError(
            f"the sandbox was made in {folder}, which is {home.root} now. End it first: ./run sandbox down"
        )
    _refuse_others(folder, settings)
    home.root.mkdir(parents=True, exist_ok=True)
    if not home.settings.exists():
        settings.save(home.settings)
    authority.make(home.tls)
    _secrets(home, settings)
    engine.image()
    engine.keeper()
    if alive(home) is None:
        _start(home)
    _wait(home, settings)
    return settings


def _has_moved(home: Home, folder: Path | None) -> bool:
    """Whether this is the folder that the containers know by another path."""
    return folder is not None and not folder.exists() and home.settings.exists()


def _refuse_others(folder: Path | None, settings: Settings) -> None:
    """Names, networks and addresses are the same in every folder: the first one has them until its `down`."""
    if folder is None:
        return
    label = f"label={LABEL}={settings.name}"
    step = (
        f"End it there (GOUD_SANDBOX_STATE={shlex.quote(str(folder))} ./run sandbox down), or give this one another "
        "name, loopback and port (./run sandbox up --name … --loopback … --port …)"
        if folder.exists()
        else "That folder does not exist any more. Put it back, or remove what is left of it: "
        f"docker rm --force --volumes $(docker ps --all --quiet --filter {label})"
    )
    raise SandboxError(
        f"the sandbox {settings.name} on this engine is of the folder {folder}. Nothing was touched. {step}"
    )


def _secrets(home: Home, settings: Settings) -> None:
    if not home.token.exists():
        home.token.touch(mode=0o600)
        home.token.write_text(f"ya29.sandbox-{secrets.token_urlsafe(32)}\n")
    if not home.aws_key.exists():
        letters = string.ascii_uppercase + string.digits
        key = "AKIA" + "".join(secrets.choice(letters) for _ in range(16))
        home.aws_key.touch(mode=0o600)
        home.aws_key.write_text(json.dumps({"id": key, "secret": secrets.token_urlsafe(30)}) + "\n")
    if not home.credentials.exists():
        documents = Documents(home.database)
        iam = Iam(documents, home.token.read_text().strip())
        account = iam.new_account(settings.project, {"accountId": OPERATOR_ACCOUNT})
        member = f"serviceAccount:{email(settings.project, OPERATOR_ACCOUNT)}"
        iam.set_policy(f"projects/{settings.project}", {"bindings": [{"role": "roles/owner", "members": [member]}]})
        home.credentials.touch(mode=0o600)
        home.credentials.write_bytes(base64.b64decode(iam.new_key(account)["privateKeyData"]))
        documents.close()


def _start(home: Home) -> None:
    command = [sys.executable, "-m", "goud_sandbox.cli", "serve", "--state", str(home.root)]
    source = str(Path(__file__).parents[1])  # found again whether the package is installed or run from its folder
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH")) if part)
    with home.log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path},
        )
    _children.append(process)
    home.pid.write_text(f"{process.pid}\n")


def _wait(home: Home, settings: Settings) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            call(settings, "GET", "/status")
            _knock(home, settings)
        except (NotRunning, httpx.HTTPError) as error:
            if alive(home) is None or time.monotonic() > deadline:
                tail = "\n".join(home.log.read_text().splitlines()[-8:])
                raise NotRunning(f"the service did not come up ({error}); {home.log} ends with:\n{tail}") from error
            time.sleep(0.2)
        else:
            return


def _knock(home: Home, settings: Settings) -> None:
    """One call by the way that clients take: proxy, certificate and token."""
    url = f"https://compute.googleapis.com/compute/v1/projects/{settings.project}"
    proxy = f"http://127.0.0.1:{settings.proxy_port}"
    headers = {"Authorization": f"Bearer {home.token.read_text().strip()}"}
    trust = authority.context(home.tls / "authority.pem")
    with httpx.Client(proxy=proxy, verify=trust, trust_env=False, timeout=10) as client:
        client.get(url, headers=headers).raise_for_status()
    httpx.get(f"http://127.0.0.1:{settings.aws_port}/", timeout=10, trust_env=False)  # any answer is one


def stop(home: Home) -> None:
    """End the service and wait for it; machines and disks stay."""
    pid = alive(home)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 15
        while alive(home) is not None and not _defunct(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    home.pid.unlink(missing_ok=True)
    _children[:] = [child for child in _children if child.poll() is None]


def _defunct(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] == "Z"
    except OSError:
        return True


def down(home: Home) -> None:
    """Remove everything the sandbox made, disks and state included. The machine image stays for the next one."""
    if not home.settings.exists():
        return
    settings = Settings.load(home.settings)
    engine = Engine(settings, home)
    folder = engine.other_folder()
    if not _has_moved(home, folder):
        _refuse_others(folder, settings)
    stop(home)
    keeper = Keeper(engine)
    for machine in engine.machines():
        engine.remove(machine)
    for disk in keeper.disks():
        keeper.detach(disk)
        keeper.delete(disk)
    table = f"goud_sandbox_{settings.name}".replace("-", "_")
    keeper.firewall(f"table inet {table}\ndelete table inet {table}\n")
    try:
        engine.remove_everything()
    except DockerException as error:
        raise SandboxError(f"Docker kept something of the sandbox: {error}. Run `down` again") from error
    shutil.rmtree(home.root)


def load_settings(home: Home) -> Settings:
    """The settings of the sandbox in this folder; ``NotRunning`` when there is none."""
    if not home.settings.exists():
        raise NotRunning(f"there is no sandbox in {home.root}: start it with `up`")
    return Settings.load(home.settings)


def environment(home: Home, auth: str = "accesstoken") -> dict[str, str]:
    """What the unmodified modules need to find the sandbox instead of Google; ``auth`` is their ``auth_kind``."""
    settings = load_settings(home)
    proxy = f"http://127.0.0.1:{settings.proxy_port}"
    local = "127.0.0.1,localhost,127.0.0.0/8"
    credentials = {
        "accesstoken": {"GCP_AUTH_KIND": "accesstoken", "GCP_ACCESS_TOKEN": home.token.read_text().strip()},
        "serviceaccount": {"GCP_AUTH_KIND": "serviceaccount", "GCP_SERVICE_ACCOUNT_FILE": str(home.credentials)},
    }
    return {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": local,
        "no_proxy": local,
        "REQUESTS_CA_BUNDLE": str(home.tls / "bundle.pem"),
        "SSL_CERT_FILE": str(home.tls / "bundle.pem"),
        **credentials[auth],
        "GCP_PROJECT": settings.project,
        "GOOGLE_CLOUD_PROJECT": settings.project,
        "GOOGLE_APPLICATION_CREDENTIALS": str(home.credentials),
        "GOUD_BACKUP_ENVIRONMENT": json.dumps({"HTTPS_PROXY": MACHINES_PROXY, "NO_PROXY": MACHINES_BYPASS}),
        "GOUD_BACKUP_CA_FILE": str(home.tls / "authority.pem"),
    }


# For processes on machines, whose 127.0.0.1 is not this one; see doors.
MACHINES_PROXY = f"http://{SERVICES_ADDRESS}:{MACHINES_PROXY_PORT}"
MACHINES_BYPASS = f"{METADATA_ADDRESS},{SERVICES_ADDRESS},{HOST},127.0.0.1,localhost"
UNSET = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ENDPOINT_URL_S3")


def aws_environment(home: Home) -> dict[str, str]:
    """What Amazon's clients need to find the sandbox; variables in ``UNSET`` would lead them elsewhere."""
    settings = load_settings(home)
    key = json.loads(home.aws_key.read_text())
    bypass = ["127.0.0.1", "localhost", *filter(None, os.environ.get("NO_PROXY", "").split(","))]
    local = ",".join(dict.fromkeys(bypass))
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{settings.aws_port}",
        "AWS_ACCESS_KEY_ID": key["id"],
        "AWS_SECRET_ACCESS_KEY": key["secret"],
        "AWS_REGION": settings.aws_region,
        "AWS_DEFAULT_REGION": settings.aws_region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": local,
        "no_proxy": local,
        "GOUD_BACKUP_ENVIRONMENT": json.dumps(
            {
                "AWS_ENDPOINT_URL": f"http://{SERVICES_ADDRESS}",
                "AWS_REGION": settings.aws_region,
                "NO_PROXY": MACHINES_BYPASS,
            }
        ),
        "GOUD_BACKUP_CA_FILE": "",
    }
