"""Operating a running node through its signed peer interface."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from msgspec import Meta

from goud_node.chain.keys import SigningKey
from goud_node.cli import config, output
from goud_node.cli.output import AsJson
from goud_node.documents import MOST_LISTING, Document, Line, Malformed, Number, printable, read, shaped
from goud_node.errors import ConfigurationError, GoudError
from goud_node.peer.tokens import ANSWER_HEADER, OPERATOR, Refused, Signer, Verifier

app = typer.Typer(
    help="Operate a running node.\n\nBeside the node (in its container) no option is needed: its own key signs the "
    "calls. From elsewhere, give `--url`, `--node`, and the operator's key with `--key`.",
    no_args_is_help=True,
)
checkpoint_app = typer.Typer(help="Consistent copies of the running node's database.", no_args_is_help=True)
app.add_typer(checkpoint_app, name="checkpoint")


_Moment = Annotated[float, Meta(ge=0, lt=1e11)]
"""Unix time of which a calendar has a date."""


class Unreachable(GoudError):
    """The node gave no usable answer, or refused."""

    code = "unreachable"


class _HandOver(Document):
    """What is used of the answer to /operator/hand-over."""

    handed_over: bool


class _Lease(Document):
    """What is used of each checkpoint in a list."""

    id: Line
    path: Line
    expires: _Moment


class _Leases(Document):
    checkpoints: list[_Lease]


class _Checkpoint(Document):
    """What is used of a checkpoint that was made."""

    expires: _Moment
    files: dict[Line, Number]


@dataclass(frozen=True)
class _Target:
    url: str | None
    node: str | None
    key: Path | None


@app.callback()
def _options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="Peer interface of the node, such as http://node2:9000.")] = None,
    node: Annotated[str | None, typer.Option(help="Name of that node; calls are signed for one node only.")] = None,
    key: Annotated[Path | None, typer.Option(help="The operator's private key; the node's own by default.")] = None,
) -> None:
    context.obj = _Target(url, node, key)


class _Call:
    """One signed call. With `--key` the operator signs, else the node's own key does."""

    def __init__(self, target: _Target) -> None:
        if target.key is not None:
            if target.url is None or target.node is None:
                raise ConfigurationError("--key needs --url and --node: which node is to be operated?")
            self._node, self._url, issuer = target.node, target.url.rstrip("/"), OPERATOR
            self._key = SigningKey.load(target.key)
            self._public_key: bytes | None = None
        else:
            settings = config.load()
            self._node, issuer = settings.node_id, settings.node_id
            host = "127.0.0.1" if settings.peer_host in ("0.0.0.0", "") else settings.peer_host  # noqa: S104  # compared
            self._url = (target.url or f"http://{host}:{settings.peer_port}").rstrip("/")
            self._key = SigningKey.load(settings.node_key_file)
            self._public_key = self._key.public
        self._issuer = issuer

    def __call__(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        shape: type[Document] | None = None,
        seconds: float = 10.0,
    ) -> dict[str, Any]:
        """The answer's document, which has what `shape` names. Raises Unreachable."""
        request = httpx.Request(method, self._url + path, json=body)
        token, request_id = Signer(self._key, self._issuer).request(self._node, method, path, request.content)
        request.headers["Authorization"] = f"Bearer {token}"
        try:
            with httpx.Client(timeout=httpx.Timeout(seconds, connect=2.0), trust_env=False) as client:
                response = client.send(request)
        except httpx.HTTPError as error:
            raise Unreachable(
                f"{self._node} does not answer at {self._url} ({error}): is it running, and is this the right port?"
            ) from error
        self._check(response, request_id)
        document = self._document(response) if response.content else {}
        if response.is_error:
            detail = printable(str(document.get("detail", document)))[:1000]
            raise Unreachable(f"{self._node} refused ({response.status_code}): {detail}")
        if shape is not None:
            try:
                shaped(document, shape)
            except Malformed as error:
                raise self._unusable(response, error) from error
        return document

    def _document(self, response: httpx.Response) -> dict[str, Any]:
        try:
            return read(response.content, dict[str, Any], MOST_LISTING)
        except Malformed as error:
            raise self._unusable(response, error) from error

    def _unusable(self, response: httpx.Response, error: Malformed) -> Unreachable:
        return Unreachable(
            f"{self._node} gave no usable answer ({response.status_code}): {error}. Is {self._url} its peer port?"
        )

    def _check(self, response: httpx.Response, request_id: str) -> None:
        if response.status_code == 401:
            raise Unreachable(f"{self._node} refuses this key: {printable(response.text[:300])}")
        if self._public_key is None:
            # The operator holds no list of the nodes' keys; from afar the transport has to be trusted.
            return
        verifier = Verifier(self._issuer, {self._node: self._public_key})
        try:
            verifier.answer(
                response.headers.get(ANSWER_HEADER), self._node, request_id, response.status_code, response.content
            )
        except Refused as error:
            raise Unreachable(f"What answers at {self._url} is not {self._node}: {error}") from error


def _show(title: str, answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.document(answer)
    else:
        output.table(title, [(name.replace("_", " "), output.word(value)) for name, value in answer.items()])


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show role, proposer, epoch, height and lag of the node."""
    _show("status", _Call(context.obj)("GET", "/operator/status"), as_json=as_json)


@app.command()
def drain(context: typer.Context, as_json: AsJson = False) -> None:
    """Make /readyz answer 503 so that the balancer moves away; the node goes on serving what arrives."""
    _show("drain", _Call(context.obj)("POST", "/operator/drain"), as_json=as_json)


@app.command()
def undrain(context: typer.Context, as_json: AsJson = False) -> None:
    """End a drain: the node is ready again and takes part in elections."""
    _show("undrain", _Call(context.obj)("POST", "/operator/undrain"), as_json=as_json)


@app.command("hand-over")
def hand_over(context: typer.Context, as_json: AsJson = False) -> None:
    """Give the lead to another node, so that a planned stop pauses no write. Harmless on a node that does not lead."""
    answer = _Call(context.obj)("POST", "/operator/hand-over", shape=_HandOver)
    _show("hand-over", answer, as_json=as_json)
    if not answer["handed_over"]:
        raise Unreachable("No other node took the lead: are others running, level and not drained?")


@app.command("start-epoch")
def start_epoch(
    context: typer.Context,
    confirm: Annotated[
        bool, typer.Option("--yes", help="Do it without asking.", prompt="Begin a new epoch from this node's tip?")
    ],
    as_json: AsJson = False,
) -> None:
    """Begin a new agreement epoch from this node's tip; after a restore, `goud-node epoch start` does it at rest.

    The ordering service forgets what it ordered before, so run it once, on the node with the longest chain. A node
    whose chain is not part of the new epoch refuses to join.
    """
    if not confirm:
        raise typer.Abort
    _show("start-epoch", _Call(context.obj)("POST", "/operator/start-epoch"), as_json=as_json)


@checkpoint_app.command("create")
def create(
    context: typer.Context,
    checkpoint_id: Annotated[str | None, typer.Option("--id", help="Name of the checkpoint; made when absent.")] = None,
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", help="Seconds until it is removed by itself; the node's setting when absent."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a checkpoint: hard links of the database at one moment, with its height and tip hash."""
    body = {name: value for name, value in (("id", checkpoint_id), ("ttl_seconds", ttl)) if value is not None}
    start = time.perf_counter()
    answer = _Call(context.obj)("POST", "/operator/checkpoints", body, shape=_Checkpoint, seconds=120)
    answer["seconds"] = round(time.perf_counter() - start, 6)
    if not as_json:
        answer["expires"] = output.moment(answer["expires"])
        answer["files"] = f"{len(answer['files'])} files, {sum(answer['files'].values())} bytes"
    _show("checkpoint", answer, as_json=as_json)


@checkpoint_app.command("release")
def release(
    context: typer.Context,
    checkpoint_id: Annotated[str, typer.Argument(metavar="ID", help="The checkpoint to remove.")],
    as_json: AsJson = False,
) -> None:
    """Remove a checkpoint and free what it pinned."""
    _Call(context.obj)("DELETE", f"/operator/checkpoints/{checkpoint_id}", seconds=60)
    _show("released", {"id": checkpoint_id, "released": True}, as_json=as_json)


@checkpoint_app.command("list")
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List live checkpoints."""
    answer = _Call(context.obj)("GET", "/operator/checkpoints", shape=_Leases)
    if as_json:
        output.document(answer)
    else:
        rows = [
            (entry["id"], f"{entry['path']}, until {output.moment(entry['expires'])}")
            for entry in answer["checkpoints"]
        ]
        output.table("checkpoints", rows)
