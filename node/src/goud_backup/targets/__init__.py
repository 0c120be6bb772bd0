"""Places that keep objects: a directory, Amazon S3, Google Cloud Storage, behind one small interface."""

from __future__ import annotations

from goud_backup.targets.base import Stat, Target, is_key, open_target, whole

__all__ = ["Stat", "Target", "is_key", "open_target", "whole"]
