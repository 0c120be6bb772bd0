"""Keys and the genesis document: what has to exist before the first node does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from goud_node.chain import genesis as genesis_document
from goud_node.chain.genesis import Genesis, Validator
from goud_node.chain.keys import SigningKey
from goud_node.cli import output
from goud_node.cli.output import AsJson
from goud_node.errors import ConfigurationError

genesis_app = typer.Typer(
    help="The genesis document: the name, the birth and the validators of a chain.", no_args_is_help=True
)


def keygen(
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a new private key to this file (mode 0600, never replaced).")
    ] = None,
    show: Annotated[
        Path | None, typer.Option("--show", help="Print the public part of the key in this file instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a node's Ed25519 key, and print its public part for the genesis document and the peers file."""
    if (out is None) == (show is None):
        raise typer.BadParameter("give either --out or --show")
    path = out or show
    if out is not None:
        key = SigningKey.generate()
        key.save(out)
    else:
        key = SigningKey.load(Path(str(show)))
    if as_json:
        output.document({"file": str(path), "public_key": key.public.hex()})
    else:
        typer.echo(key.public.hex())


@genesis_app.command("create")
def create(
    out: Annotated[
        Path, typer.Option("--out", help="Where to write the document; an existing file is never replaced.")
    ],
    validator: Annotated[
        list[str],
        typer.Option(
            "--validator", help="NODE_ID=PUBLIC_KEY (hex, as keygen prints it); repeat it for each validator."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the chain.")] = "goud",
    created_ms: Annotated[
        int | None, typer.Option("--created-ms", help="Birth in Unix milliseconds; now when absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the genesis document of a new chain.

    Its hash is the chain's identity: the same document must be given to every node, and never changes.
    """
    birth_ms = int(time.time() * 1000) if created_ms is None else created_ms
    genesis = Genesis(name, birth_ms, tuple(_validator(text) for text in validator))
    genesis_document.dump(genesis, out)
    if as_json:
        output.document({"file": str(out), "chain_id": genesis.chain_id, "quorum": genesis.quorum})
    else:
        typer.echo(genesis.chain_id)


@genesis_app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="The genesis document.", envvar="GOUD_GENESIS_FILE")],
    as_json: AsJson = False,
) -> None:
    """Print a genesis document and the chain id it makes."""
    genesis = genesis_document.load(path)
    if as_json:
        validators = [
            {"node_id": validator.node_id, "public_key": validator.public_key.hex()} for validator in genesis.validators
        ]
        output.document({"chain_id": genesis.chain_id, "name": genesis.name, "validators": validators})
        return
    rows = [("chain", genesis.chain_id), ("name", genesis.name), ("quorum", str(genesis.quorum))]
    output.table(
        "genesis", [*rows, *((validator.node_id, validator.public_key.hex()) for validator in genesis.validators)]
    )


def _validator(text: str) -> Validator:
    node_id, _, key_text = text.partition("=")
    try:
        return Validator(node_id, bytes.fromhex(key_text))
    except ValueError as error:
        raise ConfigurationError(f"--validator {text!r} must be NODE_ID=PUBLIC_KEY with the key in hex.") from error
