"""The machine room: machines, disks, networks and firewalls, as any provider wants them."""

from __future__ import annotations
