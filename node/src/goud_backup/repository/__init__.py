"""The repository: what lies where in a target, manifests, segments, locks, and what retention keeps."""

from __future__ import annotations
