"""Unit tests of the Ansible plugins and of the scripts."""

from __future__ import annotations
