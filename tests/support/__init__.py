"""What the end-to-end tests and the benchmark share: the running cluster and a workload whose truth is known."""

from __future__ import annotations
