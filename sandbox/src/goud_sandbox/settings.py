"""Where a sandbox keeps its things and which addresses it takes. Written once by ``up``, read by everything else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT_STATE = Path(".state/sandbox")
STATE_VARIABLE = "GOUD_SANDBOX_STATE"
LABEL = "io.goud-chain.sandbox"
# Where machines find what listens on their bridge: metadata servers, and the way to the APIs.
METADATA_ADDRESS, SERVICES_ADDRESS = "169.254.169.254", "169.254.169.253"
MACHINES_PROXY_PORT = 3128


@dataclass(frozen=True)
class Settings:
    """One sandbox. Ports are TCP on 127.0.0.1; ``loopback`` are the first three numbers of the machines' addresses.

    On the bridges' own addresses, for machines, are the proxy's, Amazon's and the metadata servers' ports.
    """

    name: str = "main"
    project: str = "goud-sandbox"
    region: str = "europe-west4"
    aws_region: str = "eu-west-1"
    loopback: str = "127.0.1"
    proxy_port: int = 7080
    api_port: int = 7443
    admin_port: int = 7081
    aws_port: int = 7083
    metadata_port: int = 7084
    published_ports: tuple[int, ...] = (22, 80, 443, 8080)
    operation_seconds: float = 0.6
    quota_cpus: int = 24
    quota_ssd_gb: int = 2048
    quota_ebs_gb: int = 2048
    modification_hours: float = 6.0
    upstream_proxy: str = ""

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read what ``save`` wrote."""
        values = json.loads(path.read_text())
        values["published_ports"] = tuple(values["published_ports"])
        values.setdefault("aws_port", values["proxy_port"] + 3)
        values.setdefault("metadata_port", values["proxy_port"] + 4)
        return cls(**values)


@dataclass(frozen=True)
class Home:
    """The folder of one sandbox."""

    root: Path

    @classmethod
    def find(cls, root: Path | None = None) -> Home:
        """``root``, else $GOUD_SANDBOX_STATE, else .state/sandbox under the current folder."""
        folder = root or Path(os.environ.get(STATE_VARIABLE) or DEFAULT_STATE)
        return cls(folder.absolute())

    @property
    def settings(self) -> Path:
        """The settings ``up`` wrote."""
        return self.root / "settings.json"

    @property
    def database(self) -> Path:
        """The documents."""
        return self.root / "documents.db"

    @property
    def disks(self) -> Path:
        """Sparse files of disks and snapshots; owned by root, touched only through the keeper."""
        return self.root / "disks"

    @property
    def machines(self) -> Path:
        """One folder per machine, mounted read-only into it."""
        return self.root / "machines"

    @property
    def relays(self) -> Path:
        """What the keeper passes on, mounted read-only into it."""
        return self.root / "relays"

    @property
    def objects(self) -> Path:
        """Bytes of storage objects."""
        return self.root / "objects"

    @property
    def tls(self) -> Path:
        """The authority, the server's certificate and the bundle for clients."""
        return self.root / "tls"

    @property
    def token(self) -> Path:
        """The operator's access token."""
        return self.root / "token"

    @property
    def credentials(self) -> Path:
        """A service account's key file, for clients that want application default credentials."""
        return self.root / "credentials.json"

    @property
    def aws(self) -> Path:
        """Amazon's state: the models of every service, and the bytes of storage objects."""
        return self.root / "aws"

    @property
    def aws_key(self) -> Path:
        """The operator's access key."""
        return self.root / "aws-key.json"

    @property
    def pid(self) -> Path:
        """Process id of the service."""
        return self.root / "service.pid"

    @property
    def log(self) -> Path:
        """What the service says."""
        return self.root / "service.log"
