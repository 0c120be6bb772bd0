"""``goud-sandbox``: a cloud in a box. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not running."""

from __future__ import annotations

import json
import logging
import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from goud_sandbox import control
from goud_sandbox.errors import NotRunning, SandboxError
from goud_sandbox.settings import STATE_VARIABLE, Home, Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
fault = typer.Typer(no_args_is_help=True, help="Order faults, by the ids that `status` shows.")
app.add_typer(fault, name="fault")
out, err = Console(), Console(stderr=True)

State = Annotated[Path | None, typer.Option("--state", help=f"Folder of the sandbox (${STATE_VARIABLE}).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class Cloud(StrEnum):
    """Providers the sandbox can be."""

    GCP = "gcp"
    AWS = "aws"


class Auth(StrEnum):
    """Kinds of credentials; record sets need a service account (their module cannot use a token)."""

    ACCESSTOKEN = "accesstoken"
    SERVICEACCOUNT = "serviceaccount"


@app.command()
def up(
    cloud: Annotated[Cloud, typer.Argument(help="The provider to go on with; both run.")] = Cloud.GCP,
    state: State = None,
    name: Annotated[str, typer.Option(help="Part of every container's name.")] = "main",
    project: Annotated[str, typer.Option(help="The one project there is.")] = "goud-sandbox",
    region: Annotated[str, typer.Option(help="Region of automatic subnetworks.")] = "europe-west4",
    loopback: Annotated[str, typer.Option(help="First three numbers of external addresses.")] = "127.0.1",
    port: Annotated[int, typer.Option(help="Port of the proxy; the next four are taken too.")] = 7080,
    aws_region: Annotated[str, typer.Option(help="Region that `env aws` names.")] = "eu-west-1",
    operation_seconds: Annotated[float, typer.Option(help="How long an operation takes at least.")] = 0.6,
) -> None:
    """Start the sandbox in the background (the first time: build its machine image). Harmless when it runs."""
    home = Home.find(state)
    options = Settings(
        name=name,
        project=project,
        region=region,
        loopback=loopback,
        proxy_port=port,
        admin_port=port + 1,
        api_port=port + 2,
        aws_port=port + 3,
        metadata_port=port + 4,
        aws_region=aws_region,
        operation_seconds=operation_seconds,
        upstream_proxy=_upstream(port),
    )
    with err.status("starting the sandbox"):
        settings = control.up(home, options)
    place = f"project {settings.project}" if cloud is Cloud.GCP else f"region {settings.aws_region}"
    err.print(f"sandbox [bold]{settings.name}[/] is up: {place}, state in {home.root}")
    err.print(f'next: eval "$(./run sandbox env {cloud.value})"')


def _upstream(port: int) -> str:
    """The proxy this machine needs for the world outside; in a shell that has our `env`, that is ourselves."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or ""
    return "" if proxy.rstrip("/").endswith(f"127.0.0.1:{port}") else proxy


@app.command()
def down(state: State = None) -> None:
    """Remove everything: machines, disks, networks, state."""
    home = Home.find(state)
    with err.status("removing the sandbox"):
        control.down(home)
    err.print(f"nothing is left of the sandbox in {home.root}")


@app.command()
def stop(state: State = None) -> None:
    """End the service; machines and disks stay and `up` finds them again."""
    control.stop(Home.find(state))


@app.command()
def env(
    cloud: Annotated[Cloud, typer.Argument(help="The provider.")] = Cloud.GCP,
    state: State = None,
    auth: Annotated[Auth, typer.Option(help="gcp: how the modules identify themselves.")] = Auth.ACCESSTOKEN,
    as_json: Json = False,
) -> None:
    """Print the environment that leads the unmodified modules here: eval "$(goud-sandbox env gcp)"."""
    home = Home.find(state)
    values = control.aws_environment(home) if cloud is Cloud.AWS else control.environment(home, auth.value)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    typer.echo(f"# {cloud.value}: endpoints and credentials of the sandbox")
    if cloud is Cloud.AWS:
        typer.echo(f"unset {' '.join(control.UNSET)}")
    for key, value in values.items():
        typer.echo(f"export {key}={shlex.quote(value)}")


@app.command()
def status(state: State = None, as_json: Json = False) -> None:
    """Show machines, disks and standing faults; exit 3 when the service does not run."""
    document = control.call(_settings(state), "GET", "/status")
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    machines = Table("machine", "state", "address", title="Machines")
    for name, machine in document["machines"].items():
        machines.add_row(name, "running" if machine["running"] else "stopped", machine["external"] or "internal only")
    disks = Table("disk", "size", "device", title="Disks")
    for name, image in document["disks"].items():
        device = "-" if image["minor"] is None else f"/dev/loop{image['minor']}"
        disks.add_row(name, f"{image['size'] / (1 << 30):g} GiB", device)
    out.print(machines, disks)
    for api_fault in document["api_faults"]:
        out.print(
            f"[yellow]API fault {api_fault['id']}[/]: {api_fault['kind']} {api_fault['method']} {api_fault['path']}"
        )
    for name, error in document["errors"].items():
        out.print(f"[red]{name}[/] {error}")


@app.command(hidden=True)
def serve(state: State = None) -> None:
    """Run the service in the foreground."""
    from goud_sandbox.service import Service  # noqa: PLC0415 -- the servers load only where they run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    Service(Home.find(state)).run()


@fault.command("machine")
def fault_machine(
    kind: Annotated[str, typer.Argument(help="kill, reset, partition or heal")], machine: str, state: State = None
) -> None:
    """Kill a machine, or take its network away."""
    control.call(_settings(state), "POST", f"/faults/machines/{machine}/{kind}")


@fault.command("disk")
def fault_disk(
    kind: Annotated[str, typer.Argument(help="corrupt, fill, unfill, detach or reattach")],
    disk: str,
    state: State = None,
    offset: Annotated[int, typer.Option(help="corrupt: first byte")] = 0,
    length: Annotated[int, typer.Option(help="corrupt: bytes")] = 1 << 20,
    leave_bytes: Annotated[int, typer.Option(help="fill: bytes that stay free")] = 0,
) -> None:
    """Corrupt, fill or pull a disk."""
    body = {"offset": offset, "length": length, "leave_bytes": leave_bytes}
    typer.echo(json.dumps(control.call(_settings(state), "POST", f"/faults/disks/{disk}/{kind}", body)))


@fault.command("api")
def fault_api(
    identity: str,
    kind: Annotated[str, typer.Argument(help="fail, slow, lie or lie_device")],
    path: Annotated[
        str, typer.Option(help="Regular expression over host and path; aws: over ec2.amazonaws.com/Action.")
    ] = ".*",
    method: Annotated[str, typer.Option(help="Regular expression.")] = ".*",
    status_code: Annotated[int, typer.Option(help="fail: HTTP status")] = 503,
    reason: Annotated[str, typer.Option(help="fail: the provider's reason or code")] = "backendError",
    seconds: Annotated[float, typer.Option(help="slow: seconds")] = 5.0,
    times: Annotated[int, typer.Option(help="Calls it applies to; 0 = until cleared.")] = 0,
    state: State = None,
) -> None:
    """Make API calls fail, slow down or lie."""
    body: dict[str, Any] = {"kind": kind, "path": path, "method": method, "status": status_code}
    body |= {"reason": reason, "seconds": seconds, "times": times}
    control.call(_settings(state), "PUT", f"/faults/api/{identity}", body)


@fault.command("clear")
def fault_clear(identity: Annotated[str | None, typer.Argument()] = None, state: State = None) -> None:
    """Withdraw one API fault, or all."""
    control.call(_settings(state), "DELETE", f"/faults/api/{identity}" if identity else "/faults/api")


@app.command("run-schedules")
def run_schedules(state: State = None) -> None:
    """Let the hour of the snapshot schedules come."""
    typer.echo(json.dumps(control.call(_settings(state), "POST", "/schedules/run")))


@app.command()
def advance(hours: Annotated[float, typer.Argument(help="How far.")], state: State = None) -> None:
    """Move Amazon's clock ahead: cool-downs end, backups grow old."""
    typer.echo(json.dumps(control.call(_settings(state), "POST", "/clock/advance", {"seconds": hours * 3600})))


def _settings(state: Path | None) -> Settings:
    return control.load_settings(Home.find(state))


def main() -> None:
    """Run the command line; errors are sentences."""
    try:
        app()
    except NotRunning as error:
        err.print(f"[red]error:[/] {error}")
        raise SystemExit(3) from None
    except SandboxError as error:
        err.print(f"[red]error:[/] {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
