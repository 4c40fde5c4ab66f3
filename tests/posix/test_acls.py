"""POSIX ACLs: what `setfacl`, `cp`, `rsync` and `tar` do in a mount, they do as on the native filesystem."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import acls
from snapshots.merging.merge import merge
from snapshots.storage.store import Store
from tests.posix.conftest import Ground
from tests.support.mounts import Mounted, mounted

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs files of several owners"),
    pytest.mark.skipif(shutil.which("setfacl") is None, reason="not installed: acl"),
]

# Each piece is a session of its own over a fresh tree, and prints what can be seen of it in the end.
SCRIPTS = {
    "set and changed by chmod": "setfacl -m u:1000:rwx,g:100:r file; stat -c %a file; chmod 640 file",
    "the mask is the group bits": "setfacl -m u:1000:rwx file; chmod g= file; chmod g=rx file; setfacl -m m::w file",
    "one that says no more than the mode": "setfacl -m u:1000:r file; setfacl -x u:1000 -x m file",
    "taken away": "setfacl -m u:1000:rwx,g:7:x file; setfacl -b file; setfacl -b file; setfacl -k dir",
    "inherited": """umask 077; setfacl -m d:u:1000:rwx,d:g:5:r dir; touch dir/new; mkdir dir/made
        mkdir -m 711 dir/other
        ln -s x dir/sym; mkfifo -m 600 dir/fifo2; mkdir dir/made/below; echo text > dir/made/below/file""",
    "inherited without more than a mode": """umask 022; setfacl -m d:u::rw,d:g::-,d:o::r dir
        touch dir/new; mkdir dir/made""",
    "not inherited any more": """setfacl -m d:u:1000:rwx dir; mkdir dir/made
        setfacl -k dir; umask 027; touch dir/new dir/made/x""",
    "the umask without a default": """umask 027; touch new; mkdir made; mkfifo pipe
        umask 0; touch open; mkdir -m 1777 tmp""",
    "copied": """setfacl -m u:1000:rw,d:g:3:rx dir; setfacl -m u:9:r file
        cp -p file copy; cp -a dir dir2; install file i""",
    "rewritten": "setfacl -m u:1000:rw file; sed -i s/content/other/ file; cp file copy; mv file dir/moved",
    "rsync": "setfacl -R -m u:1000:rwX,d:u:1:r dir; rsync -aA dir/ synced",
    "tar": "setfacl -R -m u:1000:rwX,d:u:1:r dir; mkdir out; tar cf - --acls dir | tar xpf - --acls -C out",
    "on what takes none": "setfacl -m d:u:1:r file; setfacl -m u:1:r link; setfacl -m u:1:rw fifo",
    "setgid stays with root": "chmod 2755 file; setfacl -m u:5:rw file; stat -c %a file",
    "hard links": "setfacl -m u:5:rw hard; ln hard third; chmod 604 third",
    "malformed": "setfattr -n system.posix_acl_access -v 0x0200000001000700ffffffff file; "
    "setfattr -n system.posix_acl_access -v 0x02 file; setfattr -n system.posix_acl_default -v 0x0200 dir",
}
SHOW = 'find . | LC_ALL=C sort | while read -r n; do stat -c "%n %A" "$n"; getfacl -cnps -- "$n"; done'


def run(script: str, top: Path) -> str:
    """What a script says, errors included, and how everything is afterwards."""
    done = subprocess.run(
        ["bash", "-c", f"({script}) 2>&1; {SHOW}"], cwd=top, capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout.replace(str(top), "TOP")


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_on_the_native_filesystem(ground: Ground, name: str) -> None:
    native, _ = ground.tree("native")
    expected = run(SCRIPTS[name], native)
    for kind in ("base", "upper", "copied"):
        top, held = ground.tree(kind)
        assert run(SCRIPTS[name], top) == expected, kind
        for fd in held:
            os.close(fd)


@pytest.fixture
def others(area: Path) -> Iterator[Mounted]:
    """A base with ACLs, in a mount that others use."""
    base = area / "base"
    base.mkdir(mode=0o755)
    for name, entries in (("mine", "u:1234:r"), ("not mine", "u:1234:-"), ("the group's", "g:1234:r")):
        (base / name).write_text(name)
        (base / name).chmod(0o640 if name != "not mine" else 0o644)
        subprocess.run(["setfacl", "-m", entries, base / name], check=True)
    with mounted(base, area, allow_other=True) as mount:
        mount.wait_watched()
        yield mount


def readable(path: Path, uid: int, gid: int) -> bool:
    """Whether somebody may read a file."""
    done = subprocess.run(
        ["cat", path], user=uid, group=gid, extra_groups=[], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=False, cwd="/",
    )  # fmt: skip
    return done.returncode == 0


def test_the_kernel_evaluates_them_where_others_use_the_mount(others: Mounted) -> None:
    for top in (others.base, others.path):
        seen = [
            readable(top / name, uid, gid)
            for name in ("mine", "not mine", "the group's")
            for uid, gid in ((1234, 1), (1235, 1), (1235, 1234))
        ]
        assert seen == [True, False, False, False, True, True, False, False, True], top
    subprocess.run(["setfacl", "-m", "u:1235:r", others.path / "mine"], check=True)
    subprocess.run(["setfacl", "-b", others.path / "the group's"], check=True)
    assert readable(others.path / "mine", 1235, 1)
    assert not readable(others.path / "the group's", 1235, 1234)
    assert not readable(others.base / "mine", 1235, 1)


def test_kept_through_the_next_mount_and_the_merge(area: Path) -> None:
    base = area / "base"
    (base / "dir").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (base / "dir" / name).write_text(name)
    subprocess.run(["setfacl", "-m", "u:7:rw,g:8:r", base / "dir" / "a", base / "dir" / "b"], check=True)
    steps = """setfacl -m u:9:x a; setfacl -b b; chmod 600 c; setfacl -m u:1:r c
        setfacl -m d:u:3:rwx .; touch new; mkdir sub"""
    with mounted(base, area) as mount:
        mount.wait_watched()
        subprocess.run(["sh", "-euc", steps], cwd=mount.path / "dir", check=True)
        expected = run("", mount.path)
    with mounted(base, area, run_id=mount.run_id) as mount:
        assert run("", mount.path) == expected
    with Store.open(area / "store") as store:
        merge(store, store.runs.get(mount.run_id))
    assert run("", base) == expected


def test_a_new_file_costs_no_request_more(others: Mounted) -> None:
    """The default list of a directory of the base is asked for once, and not by the kernel."""
    (others.path / "first").touch()
    with others.counting() as counted:
        for number in range(5):
            (others.path / f"new{number}").touch()
    assert counted["getxattr"] == 0, counted


def test_the_arithmetic() -> None:
    acl = acls.parse(acls.pack((
        acls.Entry(1, 7, 0), acls.Entry(2, 6, 5), acls.Entry(4, 5, 0), acls.Entry(16, 6, 0), acls.Entry(32, 4, 0)
    )))  # fmt: skip
    assert acls.bits_of(acl) == 0o764
    assert acls.bits_of(acls.with_mode(acl, 0o640)) == 0o640
    limited, mode = acls.inherited(acl, 0o100666)
    assert mode == 0o100664
    assert limited is not None and acls.bits_of(limited) == 0o664
    assert acls.inherited(acl[:1] + acl[2:3] + acl[4:], 0o777) == (None, 0o754)
    for wrong in ((), acl[1:], acl[::-1], (*acl, acl[-1]), (acl[0], acl[1], acl[2], acl[4])):
        if wrong:
            with pytest.raises(OSError, match="Invalid"):
                acls.parse(acls.pack(wrong))
