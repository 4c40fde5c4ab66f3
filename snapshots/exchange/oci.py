"""An OCI image layout of one layer, and the layers of any: for tools that know containers.

Owns the layout directory (image-spec 1.1: ``oci-layout``, ``index.json``, ``blobs/sha256``); the layers themselves are
``tarred``.  Knows no run.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from snapshots.errors import ImportRefused
from snapshots.exchange import tarred
from snapshots.exchange.arrivals import Arrival
from snapshots.exchange.layers import Item
from snapshots.names import readable

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_MOST_JSON = 8 << 20


def write(items: Sequence[Item], directory: Path, comment: str) -> list[str]:
    """Fill an empty directory with an image of one layer; what it cannot carry, one line each."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    beside = blobs / "layer"
    with open(beside, "wb") as out:
        left_out = tarred.write(items, out, "oci")
    with open(beside, "rb") as made:
        digest = hashlib.file_digest(made, "sha256").hexdigest()
    beside.rename(blobs / digest)
    machine = platform.machine()
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine), "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}, "history": [{"comment": comment}],
    }  # fmt: skip
    layer = {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": (blobs / digest).stat().st_size}
    manifest = {
        "schemaVersion": 2, "mediaType": _MANIFEST, "config": _blob(blobs, config, _CONFIG), "layers": [layer],
    }  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [_blob(blobs, manifest, _MANIFEST)]}
    (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (directory / "index.json").write_text(json.dumps(index))
    return left_out


def _blob(blobs: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    data = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def is_layout(directory: str) -> bool:
    """Whether a directory is an image layout."""
    return os.path.isfile(os.path.join(directory, "oci-layout"))


def layers(directory: str) -> list[str]:
    """The files of the layers of the only image in a layout, the lowest first.  ImportRefused."""
    source = readable(os.fsencode(directory))
    try:
        document = _json(os.path.join(directory, "index.json"))
        while "layers" not in document:
            [described] = document["manifests"]
            document = _json(_file(directory, described))
        return [_file(directory, described) for described in document["layers"]]
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise ImportRefused(
            f"{source} is no image layout with one image ({readable(str(error).encode('utf-8', 'replace'))}); nothing"
            " was imported"
        ) from None


def _json(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        document = json.loads(file.read(_MOST_JSON))
    if not isinstance(document, dict):
        raise ValueError(f"{os.path.basename(path)} is no object")
    return document


def _file(directory: str, described: dict[str, Any]) -> str:
    """The file of a blob, which is what its digest says."""
    algorithm, _, digest = str(described["digest"]).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("a digest that is not sha256")
    path = os.path.join(directory, "blobs", algorithm, digest)
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"blob {digest[:12]} is damaged")
    return path


def read(directory: str) -> Iterator[Iterator[Arrival]]:
    """What is in each layer, the lowest first."""
    for path in layers(directory):
        yield tarred.read(path)
