"""Which goexfs this is.  Any thread."""

import importlib.metadata
from pathlib import Path


def goexfs_version() -> str:
    """The version of the installed distribution; of a bare checkout, the one its ``setup.cfg`` states."""
    try:
        return importlib.metadata.version("goexfs")
    except importlib.metadata.PackageNotFoundError:
        import configparser

        described = configparser.ConfigParser()
        described.read(Path(__file__).resolve().parents[2] / "setup.cfg")
        return described.get("metadata", "version", fallback="unknown")
