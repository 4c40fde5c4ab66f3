"""Where the user's store is, and how large it may become.

Owns the reading of the environment for it and nothing else: the library below never looks at the environment.
"""

import os
from pathlib import Path

from snapshots.errors import StoreError, StoreUnusable

STORE_LIMIT = "GOEXFS_STORE_LIMIT"


def default_store_path() -> Path:
    """``$GOEXFS_HOME``, else ``$XDG_STATE_HOME/goexfs``, else ``~/.local/state/goexfs``; absolute.

    Raises ``StoreUnusable`` when none of the three can be known.
    """
    home = os.environ.get("GOEXFS_HOME")
    if home:
        return Path(os.path.abspath(home))
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the XDG specification has relative values ignored
        return Path(state) / "goexfs"
    user_home = os.path.expanduser("~")
    if not os.path.isabs(user_home):
        raise StoreUnusable("there is no home directory to keep the store in; set GOEXFS_HOME to a directory")
    return Path(user_home) / ".local" / "state" / "goexfs"


def store_limit() -> int | None:
    """What ``$GOEXFS_STORE_LIMIT`` says: bytes, 0 for ``none``; None when it says nothing.  Raises ``StoreError``."""
    said = os.environ.get(STORE_LIMIT)
    if not said:
        return None
    if said.strip().lower() == "none":
        return 0
    from goexfs.policy.files import parse_size

    found = parse_size(said)
    if not found:
        raise StoreError(f"{STORE_LIMIT}={said!r} is no size; write 20G, or none for no limit")
    return found


def default_policy_path() -> Path | None:
    """``$XDG_CONFIG_HOME/goexfs/policy.toml``, else ``~/.config/goexfs/policy.toml``; None without a home."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(config):
        return Path(config) / "goexfs" / "policy.toml"
    user_home = os.path.expanduser("~")
    return Path(user_home) / ".config" / "goexfs" / "policy.toml" if os.path.isabs(user_home) else None
