"""Trees to work on, and exact pictures of trees to compare.

A picture is taken with lstat, readlink and listxattr only, and holds everything that a merge must carry over.
"""

import hashlib
import os
import stat
import sysconfig
from pathlib import Path
from typing import Any

Picture = dict[bytes, dict[str, Any]]


def picture(root: Path | bytes, *, times: bool = True, contents: bool = True) -> Picture:
    """Every path below ``root`` (``b"."`` is the root itself) and what is to be known about it.

    That is kind, mode, owner, mtime, size and digest of the content, target, device number, xattrs and links.  Hard
    links are told by ``same_as``: the first path, in byte order, of the same inode.
    """
    top = os.fsencode(root)
    found: Picture = {}
    first: dict[tuple[int, int], bytes] = {}
    for path in sorted(_walk(top, b"")):
        full = os.path.join(top, path) if path != b"." else top
        st = os.lstat(full)
        facts: dict[str, Any] = {"mode": oct(st.st_mode), "uid": st.st_uid, "gid": st.st_gid}
        if times:
            facts["mtime_ns"] = st.st_mtime_ns
        if stat.S_ISREG(st.st_mode):
            facts["size"] = st.st_size
            if contents:
                facts["content"] = _digest(full)
        elif stat.S_ISLNK(st.st_mode):
            facts["target"] = os.readlink(full)
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            facts["rdev"] = st.st_rdev
        facts["xattrs"] = {name: os.getxattr(full, name, follow_symlinks=False) for name in _xattr_names(full)}
        if not stat.S_ISDIR(st.st_mode):
            facts["nlink"] = st.st_nlink
            facts["same_as"] = first.setdefault((st.st_dev, st.st_ino), path)
        found[path] = facts
    return found


def differences(before: Picture, after: Picture) -> list[str]:
    """One line per difference, for an assertion message; empty when the pictures are equal."""
    lines = [f"only before: {path!r}" for path in sorted(before.keys() - after.keys())]
    lines += [f"only after: {path!r}" for path in sorted(after.keys() - before.keys())]
    for path in sorted(before.keys() & after.keys()):
        old, new = before[path], after[path]
        lines += [
            f"{path!r}: {key}: {old.get(key)!r} -> {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    return lines


def _walk(top: bytes, below: bytes) -> list[bytes]:
    found = [below or b"."]
    with os.scandir(os.path.join(top, below)) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            found += _walk(top, path) if entry.is_dir(follow_symlinks=False) else [path]
    return found


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattr_names(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def small_tree(root: Path) -> None:
    """Fill ``root`` with a little project: text, a binary, a script, links, an empty directory, an old mtime."""
    (root / "src" / "pkg").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / "empty").mkdir()
    (root / "README").write_text("A project.\n")
    (root / "src" / "pkg" / "__init__.py").write_text("")
    (root / "src" / "pkg" / "core.py").write_text("".join(f"line_{n} = {n}\n" for n in range(200)))
    (root / "src" / "tool.sh").write_text("#!/bin/sh\necho tool\n")
    (root / "src" / "tool.sh").chmod(0o755)
    (root / "docs" / "data.bin").write_bytes(bytes(range(256)) * 1024)
    (root / "docs" / "link").symlink_to("../README")
    os.link(root / "README", root / "docs" / "README.hard")
    os.utime(root / "README", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))


def copy_of_standard_library(target: Path, *, enough: int = 1600) -> int:
    """Copy the interpreter's own library to ``target``, then installed packages until there are ``enough`` files.

    Returns the number of files.  A distribution that leaves ``test`` out has too few files of its own.
    """
    count = 0
    for source in (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platlib"))):
        count += _copy(source, target / source.name if count else target, enough - count)
    return count


def _copy(source: Path, target: Path, enough: int) -> int:
    count = 0
    for folder, names, files in os.walk(source):
        names[:] = [name for name in names if name not in ("__pycache__", "site-packages", "dist-packages")]
        names.sort(key=lambda name: (name == "test", name))  # last, being most of it
        if count >= enough:
            break
        there = target / Path(folder).relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for name in sorted(files):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
                continue
            copied = there / name
            copied.write_bytes(path.read_bytes())
            copied.chmod(path.stat().st_mode & 0o777)
            os.utime(copied, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
            count += 1
    return count
