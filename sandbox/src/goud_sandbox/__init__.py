"""A cloud in a box: the APIs of real clouds on loopback, over containers that boot systemd and loop devices."""

from __future__ import annotations
