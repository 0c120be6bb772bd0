"""`python -m goud_backup.cli`: the same as the command `goud-backup`."""

from __future__ import annotations

from goud_backup.cli import main

# Verification starts processes that import this module again.
if __name__ == "__main__":
    main()
