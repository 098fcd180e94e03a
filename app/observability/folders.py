"""Folders that the processes of one instance share, made when they are missing.

A folder can vanish under a running instance (a session cleaner, `systemd-tmpfiles`, an operator's
`rm`), so each process makes it again when it needs it.
"""

import os
from pathlib import Path


def make(folder: Path) -> None:
    """Makes the folder, for this user alone, unless it is there. Raises OSError: where it cannot be
    made, where something else is in its place, and where it belongs to a user other than this one
    or root. In a place that everybody may write to, such as /dev/shm, another user could make a
    folder of that name after ours has gone, and put forged data into it."""
    folder.mkdir(0o700, parents=True, exist_ok=True)
    owner = os.stat(folder).st_uid
    if owner not in (os.geteuid(), 0):
        raise PermissionError(f"the folder {folder} belongs to another user (uid {owner})")
