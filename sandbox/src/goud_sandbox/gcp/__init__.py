"""Google Cloud: Compute Engine, Storage, IAM, DNS and Resource Manager as far as our roles call them."""

from __future__ import annotations
