"""The service: composition, the servers, the reconciler's thread, an orderly end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading

from docker.errors import DockerException

from goud_sandbox import admin, doors
from goud_sandbox.apifaults import ApiFaults
from goud_sandbox.aws.app import Amazon
from goud_sandbox.aws.context import Context, Key
from goud_sandbox.documents import Documents
from goud_sandbox.gcp import schedules
from goud_sandbox.gcp.app import Google
from goud_sandbox.proxy import Proxy
from goud_sandbox.room.engine import Engine
from goud_sandbox.room.faults import Faults
from goud_sandbox.room.keeper import Keeper
from goud_sandbox.room.model import Desired
from goud_sandbox.room.reconcile import Room
from goud_sandbox.serving import server
from goud_sandbox.settings import Home, Settings

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class Service:
    """One running sandbox."""

    def __init__(self, home: Home) -> None:
        self.settings = Settings.load(home.settings)
        documents = Documents(home.database)
        self.engine = Engine(self.settings, home)
        self.keeper = Keeper(self.engine)
        table = f"goud_sandbox_{self.settings.name}".replace("-", "_")
        self.room = Room(self.engine, self.keeper, home, table, self._desired, doors=doors.doors(self.settings))
        self.faults = Faults(documents, self.engine, self.keeper, self.room)
        self.api_faults = ApiFaults(documents)
        token = home.token.read_text().strip()
        self.google = Google(
            documents,
            self.settings,
            self.api_faults,
            operator_token=token,
            objects=home.objects,
            settle=self.room.settle,
        )
        self.amazon = Amazon(
            documents,
            Context(self.settings, console=self._console, host_keys=self._host_keys, reboot=self._reboot),
            self.api_faults,
            operator=Key(**json.loads(home.aws_key.read_text())),
            folder=home.aws,
            settle=self.room.settle,
        )
        self.room.on_power_off = self._on_power_off
        instances = self.google.compute.instances
        instances.console, instances.host_keys, instances.kill = self._console, self._host_keys, self.faults.reset
        self._home = home

    def _desired(self) -> Desired:
        return self.google.desired().union(self.amazon.desired())

    def _on_power_off(self, machine: str) -> None:
        self.google.on_power_off(machine)
        self.amazon.on_power_off(machine)

    def _console(self, machine: str) -> str:
        try:
            return self.engine.container(machine).logs(tail=2000).decode(errors="replace")
        except DockerException as error:
            log.warning("no console of %s: %s", machine, error)
            return ""

    def _reboot(self, machine: str) -> None:
        try:
            self.engine.within(machine, "systemctl", "--no-block", "reboot")
        except DockerException as error:
            log.warning("%s cannot be asked to reboot: %s", machine, error)

    def _host_keys(self, machine: str) -> dict[str, str]:
        try:
            code, output, _ = self.engine.within(machine, "sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub")
        except DockerException as error:
            log.warning("no host keys of %s: %s", machine, error)
            return {}
        lines = [line.split() for line in output.splitlines()] if code == 0 else []
        return {line[0]: line[1] for line in lines if len(line) >= 2}

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        thread = threading.Thread(target=self._reconcile, name="reconciler", daemon=True)
        thread.start()
        self.google.operations.resume()
        self.amazon.start(self.settings.aws_port)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        tls = self._home.tls
        api = server(
            self.google.app,
            LOOPBACK,
            self.settings.api_port,
            ssl_certfile=str(tls / "server.pem"),
            ssl_keyfile=str(tls / "server.key"),
        )
        admin_app = admin.application(
            self.room, self.keeper, self.faults, self.api_faults, tick=self._tick, advance=self.amazon.advance
        )
        servers = [api, server(admin_app, LOOPBACK, self.settings.admin_port)]
        proxy = Proxy(self.settings.proxy_port, self.settings.api_port, self.settings.upstream_proxy)
        metadata = doors.application(self.google.metadata, self.amazon.metadata)
        bridge_doors = doors.Doors(self.settings, lambda: self.room.bridges, proxy, metadata)
        background = [asyncio.create_task(proxy.run()), asyncio.create_task(bridge_doors.run())]
        tasks = [*(asyncio.create_task(http_server.serve()) for http_server in servers), *background]
        stop_signal = asyncio.create_task(stop.wait())
        ends, _ = await asyncio.wait([stop_signal, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in ends - {stop_signal}:
            log.error("a server ended: %s", task)
        self.room.stop()
        for http_server in servers:
            http_server.should_exit = True
        for task in background:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.amazon.stop()

    def _tick(self) -> list[str]:
        return [*schedules.run(self.google.compute), *self.amazon.run_schedules()]

    def _reconcile(self) -> None:
        try:
            self.room.run()
        except BaseException:
            # Without its reconciler every answer of the service would be a promise nobody keeps.
            log.critical("the reconciler died; the service ends", exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)
            raise
