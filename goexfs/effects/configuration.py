"""Where the user says how databases and servers are reached: a place that no run sees.

Owns the path; imported by every command that runs something, so it imports nothing that takes time.  Any thread.
"""

import os
from pathlib import Path


def configuration_path() -> Path:
    """``$XDG_CONFIG_HOME/goexfs/config.toml``, else the one in ``~/.config``."""
    above = os.environ.get("XDG_CONFIG_HOME", "")
    directory = Path(above) if os.path.isabs(above) else Path(os.path.expanduser("~")) / ".config"
    return directory / "goexfs" / "config.toml"
