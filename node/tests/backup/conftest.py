"""Every kind of target, in this process or on loopback; a small chain, built once."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # it has no types
import pytest
import uvicorn
from moto.server import ThreadedMotoServer

from goud_backup.repository import layout
from goud_backup.repository.repository import Repository
from goud_backup.targets import Target, open_target

from . import store
from .command import Command
from .store import BUCKET
from .support import backup, grow, make_repository, reopened, ship


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These take minutes together: they are a stage of their own (`pytest -m backup`)."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.backup)


with warnings.catch_warnings():
    # Google's library misses an optional package, which is no fault of a test that happens to import it first.
    warnings.simplefilter("ignore", ImportWarning)
    importlib.import_module("goud_backup.targets.gs")


@dataclass
class Cloud:
    """A store on loopback, and a switch that makes its credential worthless."""

    scheme: str
    endpoint: str
    refuse: Callable[[], None]
    accept: Callable[[], None]


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> None:
    """Closing a database collects garbage; what all these libraries imported need not be looked at each time."""
    gc.collect()
    gc.freeze()


_MEMORY = Path("/dev/shm")  # noqa: S108  # only names that nobody can guess are made there


@pytest.fixture(scope="session", autouse=True)
def _scratch_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Databases are opened ten thousand times, and each time RocksDB syncs its log in a temporary directory: that is
    half of the time on a disk. In our container it is memory, too.
    """
    tmp_path_factory.getbasetemp()  # the tests' own folders hold gigabytes: they stay on the disk
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < 1 << 30:
        yield
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY) as scratch, pytest.MonkeyPatch.context() as patch:
        Path(scratch).chmod(0o711)  # the node's account has folders below it
        patch.setattr(tempfile, "tempdir", scratch)
        patch.setenv("TMPDIR", scratch)
        yield


def collect_refused() -> None:
    """Google's library leaves the connection of a refused download open until it is collected: now, not in a test."""
    gc.collect()


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    app = store.google(tmp_path_factory.mktemp("google"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield Cloud(
            "gs",
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            lambda: setattr(app, "valid", False),
            lambda: setattr(app, "valid", True),
        )
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def amazon() -> Iterator[Cloud]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.close()
    yield Cloud("s3", endpoint, lambda: None, lambda: None)
    server.stop()


@pytest.fixture
def s3_url(amazon: Cloud, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", amazon.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/nested"


@pytest.fixture
def gs_url(google: Cloud, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.endpoint)
    return f"gs://{BUCKET}/{uuid.uuid4().hex}/nested"


@pytest.fixture(params=["file", "s3", "gs"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/target"
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def target(url: str) -> Iterator[Target]:
    found = open_target(url)
    found.create()
    yield found
    found.close()


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of 60 blocks, the last one not certified. Copy it, do not change it."""
    data = tmp_path_factory.mktemp("chain") / "data"
    grow(data, 60, uncertified=1, size=4000)
    return data


@pytest.fixture
def data(chain: Path, tmp_path: Path) -> Path:
    """A copy of the chain of its own."""
    return Path(shutil.copytree(chain, tmp_path / "data"))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repository")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def past(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backups at 60 and 100; segments 60 to 90 and 101 to 130; data at 130. Copy it, do not change it."""
    folder = tmp_path_factory.mktemp("past")
    data, cache = Path(shutil.copytree(chain, folder / "data")), folder / "cache"
    repository = make_repository(folder / "repository")
    backup(repository, data, cache)
    grow(data, 30)
    ship(repository, data)
    grow(data, 10)
    backup(repository, data, cache)
    # Out of the way for a moment, so that shipping begins again after the second backup and leaves a gap.
    shipped = {stat.key: bytes(repository.target.get(stat.key)) for stat in repository.target.list(layout.SEGMENTS)}
    for key in shipped:
        repository.target.delete(key)
    grow(data, 30)
    ship(repository, data)
    for key, content in shipped.items():
        repository.target.put(key, content)
    return folder


@pytest.fixture
def history(past: Path, tmp_path: Path) -> Repository:
    """A copy of that repository; its data is in `tmp_path / "grown"`."""
    # A target never changes a file in place, so links are copies.
    shutil.copytree(past / "repository", tmp_path / "history", copy_function=os.link)
    shutil.copytree(past / "data", tmp_path / "grown")
    return reopened(open_target(f"file://{tmp_path / 'history'}"))


@pytest.fixture
def grown(tmp_path: Path, history: Repository) -> Path:
    """The data directory of `history`, at height 130."""
    assert history.url.endswith("history")
    return tmp_path / "grown"


@pytest.fixture
def goud_backup(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    assert data == tmp_path / "data"
    return Command(tmp_path, monkeypatch, capsys)
