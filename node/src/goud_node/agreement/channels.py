"""One gRPC channel per etcd member, built so that a failure is seen, and seen soon."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio
from etcd3aio.kv import KVService
from etcd3aio.lease import LeaseService
from etcd3aio.maintenance import MaintenanceService
from etcd3aio.watch import WatchService

_OPTIONS: list[tuple[str, int]] = [
    # gRPC would repeat a call that it believes was never processed; only the sequencer may decide to repeat one.
    ("grpc.enable_retries", 0),
    # A proxy of the environment is for packages and providers; a member is reached directly or not at all.
    ("grpc.enable_http_proxy", 0),
    # Channels share connections by default: a fresh channel would get the dead connection of the old one back.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # etcd answers pings more frequent than every 5 s (its default minimum) by closing the connection.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM contents of the authority that signed the members, and of this node's client certificate and key."""

    authority: bytes
    certificate: bytes
    key: bytes


class Member:
    """The services of one etcd member on one channel; the member's certificate must carry the name in `endpoint`."""

    def __init__(self, endpoint: str, tls: TlsFiles | None) -> None:
        """`endpoint` is host:port. No TLS only where the network is trusted (tests)."""
        self.endpoint = endpoint
        target = f"dns:///{endpoint}"
        if tls is None:
            self.channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
            self.channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        self.kv = KVService(self.channel, max_attempts=1)
        self.lease = LeaseService(self.channel, max_attempts=1)
        self.maintenance = MaintenanceService(self.channel, max_attempts=1)
        self.watch = WatchService(self.channel, max_attempts=1)

    async def close(self) -> None:
        """End every call on the channel."""
        await self.channel.close()
