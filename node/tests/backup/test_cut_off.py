"""Every verb that reads, and every answer cut off once: at the first byte, in the middle, before the last one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from google.cloud.storage.retry import DEFAULT_RETRY

from goud_backup import archive
from goud_backup import restore as restoring
from goud_backup import verify as verifying
from goud_backup.errors import Missing, TargetError
from goud_backup.fork import fork
from goud_backup.plan import Wish, make
from goud_backup.progress import Silent
from goud_backup.prune import prune
from goud_backup.repository.repository import Repository, initialize
from goud_backup.repository.retention import Policy
from goud_backup.targets import Target, open_target
from goud_backup.upload import units

from .conftest import Cloud
from .cutting import CUTS, Cutter
from .store import BUCKET
from .support import GENESIS, backup, grow, reopened, restore, ship, tip_of


@dataclass
class Place:
    """A repository behind a server that cuts: two backups and segments, the source a little ahead of both."""

    url: str
    cutter: Cutter
    folder: Path

    @property
    def repository(self) -> Repository:
        return reopened(open_target(self.url))

    @property
    def data(self) -> Path:
        return self.folder / "data"


@pytest.fixture(scope="module", params=["s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    cloud: Cloud = request.getfixturevalue({"s3": "amazon", "gs": "google"}[request.param])
    folder = tmp_path_factory.mktemp(f"cut-{request.param}")
    cutter = Cutter()
    with cutter.serving(cloud.endpoint) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        patch.setattr("goud_backup.targets.s3._PAUSE", 0.0)
        patch.setattr("goud_backup.targets.gs._PATIENCE", DEFAULT_RETRY.with_timeout(60.0).with_delay(0.01, 0.02))
        patch.setattr("goud_backup.create.units", partial(units, part=16_384, pack=4_096))
        made = Place(f"{request.param}://{BUCKET}/{folder.name}", cutter, folder)
        repository = initialize(open_target(made.url), GENESIS, encrypted=False)
        for _ in range(2):
            grow(made.data, 20, size=2000)
            backup(repository, made.data, folder / "cache")
            ship(repository, made.data)
            grow(made.data, 10)
        yield made


def export(repository: Repository, folder: Path) -> object:
    options = {"environment": "test", "volume": "v", "opener": None, "workers": 2, "progress": Silent()}
    return archive.export(repository, repository.find("latest"), folder, **options)  # type: ignore[arg-type]  # as they are


def check(repository: Repository, depth: verifying.Depth) -> None:
    report = verifying.verify(repository, depth, restoring.Tools(None))
    assert report.ok, report.problems


VERBS: dict[str, Callable[[Repository, Path, Path], object]] = {
    "list": lambda repository, *_: repository.manifests().good[1],
    "show": lambda repository, *_: (repository.find("latest"), repository.checks(), repository.kept()),
    "status": lambda repository, *_: [repository.segment_header(one) for one in repository.segments()],
    "verify": lambda repository, *_: check(repository, verifying.Depth(record=False)),
    "verify --deep": lambda repository, *_: check(repository, verifying.Depth(deep=True, record=False)),
    "plan": lambda repository, *_: make(repository, Wish(to_ms=GENESIS.created_ms + 25_000), None),
    "restore": lambda repository, _, out: restore(repository, out),
    "restore --to-height": lambda repository, _, out: restore(repository, out, Wish(to_height=25)),
    "export": lambda repository, _, out: export(repository, out),
    "prune --dry-run": lambda repository, *_: prune(repository, Policy(days=0), dry_run=True),
    "ship": lambda repository, data, _: ship(repository, data),
    "create": backup,
    "fork": lambda repository, data, _: fork(repository, tip_of(data).height, tip_of(data).hash.hex()),
}


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_answer_may_be_cut_off_once(place: Place, tmp_path: Path, verb: str, where: str) -> None:
    seen: set[str] = set()
    lock = threading.Lock()

    def once(path: str, body: bytes) -> int | None:
        with lock:
            if path in seen or not body:
                return None
            seen.add(path)
        return CUTS[where](body)

    before = len(place.cutter.cuts)
    place.cutter.cut = once
    try:
        repository = place.repository
        VERBS[verb](repository, place.data, tmp_path / "out")
        repository.close()
    finally:
        place.cutter.cut = lambda *_: None
    assert len(place.cutter.cuts) > before, "nothing was cut off"


@pytest.fixture
def stored(place: Place) -> Iterator[tuple[Target, bytes]]:
    target = open_target(place.url)
    content = json.dumps(list(range(100_000))).encode()
    target.put("object", content)
    yield target, content
    place.cutter.cut = lambda *_: None
    target.close()


def test_what_has_come_is_not_asked_for_again(place: Place, stored: tuple[Target, bytes]) -> None:
    target, content = stored
    sizes: list[int] = []

    def half(path: str, body: bytes) -> int | None:
        if not path.partition("?")[0].endswith("object"):
            return None
        sizes.append(len(body))
        return len(body) // 2 if len(sizes) < 5 else None

    place.cutter.cut = half
    assert bytes(target.get("object")) == content
    assert len(sizes) == 5
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    for start, length in ((0, 100), (7, 70_000), (400_000, None)):
        sizes.clear()
        end = None if length is None else start + length
        assert bytes(target.get("object", start, length)) == content[start:end]
        assert len(sizes) == 5


def test_one_that_is_always_cut_off_ends_with_a_sentence(
    place: Place, stored: tuple[Target, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goud_backup.targets.gs._PATIENCE", DEFAULT_RETRY.with_timeout(0.3).with_delay(0.01, 0.02))
    place.cutter.cut = lambda path, _: 0 if "object" in path else None
    before = len(place.cutter.cuts)
    with pytest.raises(TargetError, match=r"object.*Check the network"):
        stored[0].get("object")
    if place.url.startswith("s3:"):
        assert len(place.cutter.cuts) - before == 6, "Google's library goes on as long as its patience lasts"


def test_what_was_written_anew_meanwhile_is_not_mixed(place: Place, stored: tuple[Target, bytes]) -> None:
    target, content = stored
    anew = content[::-1]

    def half(path: str, body: bytes) -> int | None:
        if not path.partition("?")[0].endswith("object") or body[-1:] == anew[-1:] or len(body) < len(content):
            return None
        target.put("object", anew)
        return len(body) // 2

    place.cutter.cut = half
    # A store that keeps no former version says that it is gone.
    with nullcontext() if place.url.startswith("s3:") else pytest.raises(Missing):
        assert bytes(target.get("object")) in {content, anew}


@pytest.mark.parametrize("where", ["first", "middle"])
def test_an_answer_that_hardly_goes_on_counts_as_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("goud_backup.targets.pace._SECONDS", 0.5)
    monkeypatch.setattr(place.cutter, "pause", 0.02)
    target = place.repository.target
    key = max(target.list("objects/"), key=lambda stat: stat.size).key
    content = target.get(key)
    assert len(content) > 10_000
    begin, cuts = time.monotonic(), len(place.cutter.cuts)
    place.cutter.cut = lambda _, body: CUTS[where](body) if len(place.cutter.cuts) == cuts else None
    assert target.get(key) == content
    place.cutter.cut = lambda *_: None
    assert len(place.cutter.cuts) == cuts + 1
    assert time.monotonic() - begin < 30
