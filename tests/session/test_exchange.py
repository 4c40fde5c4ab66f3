"""Export and import: what comes back is what went out, and real tools take it."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import goexfs
from goexfs.session import exchange
from snapshots.errors import ExportFailed, ImportRefused
from snapshots.names import readable
from tests.store.sessions import every_kind_of_base, every_kind_of_change, write
from tests.support.trees import differences, picture

GIT = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": "/nonexistent",
       "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@d"}


def git(where, *args, **more):
    done = subprocess.run(["git", *args], cwd=where, env=GIT, capture_output=True, check=False, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def text_base(base):
    for name, content in {"a": "1\n2\n3\n", "moved": "x\n" * 20, "gone": "bye\n", "in/side": "deep\n"}.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(content)
    (base / "binary").write_bytes(bytes(range(256)) * 9)
    (base / "crlf").write_bytes(b"one\r\ntwo\r\n")
    (base / "link").symlink_to("a")


def text_change(there):
    (there / "a").write_text("1\n2\nthree")
    (there / "moved").rename(there / "in" / "now")
    (there / "gone").unlink()
    (there / "new dir").mkdir()
    (there / "new dir" / "na\tme").write_text("new\nFrom here\n")
    (there / "new dir" / "run").write_text("#!/bin/sh\n")
    (there / "new dir" / "run").chmod(0o755)
    (there / "binary").write_bytes(bytes(range(255, -1, -1)) * 9)
    (there / "crlf").write_bytes(b"one\r\n2\r\n")
    (there / "link").unlink()
    (there / "link").symlink_to("in/now")
    (there / os.fsdecode(b"\xff\xfe")).write_bytes(b"not UTF-8: \xff\n")


class Ran:
    """A kept run over a base, and a copy of the base to try things on."""

    def __init__(self, area, prepare, change):
        self.base = area / "base"
        self.base.mkdir()
        prepare(self.base)
        self.copy = area / "copy"
        subprocess.run(["cp", "-a", self.base, self.copy], check=True)
        self.store = goexfs.open_store(area / "store")
        with self.store.start(self.base, on_exit="keep") as session:
            change(session.mountpoint)
            self.there = picture(session.mountpoint, times=False)
            session.keep()
        self.run = self.store.run(session.id)

    def export(self, form, place, **more):
        return exchange.export(self.run, form, place, None, **more)

    def came_back(self, place, form=None):
        run = exchange.import_run(self.store.store, os.fspath(place), self.base, form=form)
        return summary(run), run

    def merged(self, run):
        run.merge()
        return picture(self.base, times=False)


def summary(run):
    return [
        (str(c.status), c.path, c.old_path, c.attrs, c.link_to, c.after and (c.after.mode, c.after.size))
        for c in run.diff()
    ]


@pytest.fixture
def ran(area):
    made = []

    def begin(prepare, change):
        made.append(Ran(area, prepare, change))
        return made[-1]

    yield begin
    for each in made:
        each.store.close()


@pytest.mark.parametrize("form", ["patch", "mbox"])
def test_patches_come_back_and_git_takes_them(ran, area, form):
    r = ran(text_base, text_change)
    assert r.export(form, area / "out") == []
    back, run = r.came_back(area / "out")
    assert back == summary(r.run)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        git(r.copy, *command)
    git(r.copy, *(["am", "--keep-cr", area / "out"] if form == "mbox" else ["apply", area / "out"]))
    shutil.rmtree(r.copy / ".git")
    assert differences(r.there, picture(r.copy, times=False)) == []
    assert differences(r.there, r.merged(run)) == []


def test_a_mail_says_who_and_what(ran, area):
    r = ran(text_base, lambda there: (there / "a").write_text("1\n"))
    letter = exchange.default_letter(r.run)._replace(name="Ünï Cöde", address="u@x.example", subject="Fix\nit all")
    r.export("mbox", area / "out", letter=letter)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"], ["am", area / "out"]):
        git(r.copy, *command)
    assert git(r.copy, "log", "-1", "--format=%an <%ae> %s").decode() == "Ünï Cöde <u@x.example> Fix it all\n"


def test_what_a_patch_cannot_carry_is_said(ran, area):
    def change(there):
        (there / "empty").mkdir()
        (there / "a").chmod(0o600)
        (there / ".git").mkdir()
        (there / ".git" / "config").write_text("[core]\n")
        (there / ".git" / "HEAD").write_text("ref: refs/heads/x\n")

    r = ran(text_base, change)
    said = r.export("patch", area / "out")
    left_out = "\n".join(said)
    assert left_out.count("git takes no patch") == 1, "however much a commit changes there"
    assert "empty: an empty directory" in left_out
    assert ".git and 2 more: git takes no patch" in left_out
    assert "mode of a" in left_out
    assert b".git" not in (area / "out").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="devices and owners")
@pytest.mark.parametrize("form", ["tar", "oci", "overlayfs", "image"])
def test_layers_come_back(ran, area, form):
    def change(there):
        every_kind_of_change(there)
        os.setxattr(there / "edited", "user.bytes", bytes(range(256)))
        os.chown(there / "edited", 7, 8)
        write(there / os.fsdecode(b"\xffnew\nname"), "x")

    r = ran(every_kind_of_base, change)
    place = area / "out"
    if form == "image":
        place.mkdir()
    r.export("oci" if form == "image" else form, place)
    back, run = r.came_back(place)
    kinds = {"A", "M", "D", "X", "T"}
    assert {status for status, *_ in back} <= kinds  # renames are deletions and additions to a layer
    assert differences(r.there, r.merged(run)) == []


def apply_layer(archive, root):
    """An OCI layer, applied as the specification says (image-spec, layer.md), without any of our code."""
    # Python 3.11.2, which is Debian's, has no filters yet.
    trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    with tarfile.open(archive) as layer:
        members = layer.getmembers()
        for member in members:
            above, name = os.path.split(member.name)
            if name == ".wh..wh..opq":
                for each in os.listdir(root / above):
                    remove(root / above / each)
            elif name.startswith(".wh."):
                remove(root / above / name[4:])
        for member in members:
            if not os.path.basename(member.name).startswith(".wh."):
                target = root / member.name
                if target.is_symlink() or (target.exists() and not (target.is_dir() and member.isdir())):
                    remove(target)
                layer.extract(member, root, numeric_owner=True, **trusted)
        for member in reversed(members):  # of directories last, as tar does: what is in them must not inherit
            for key, value in member.pax_headers.items():
                if key.startswith("SCHILY.xattr."):
                    os.setxattr(root / member.name, key[13:], os.fsencode(value), follow_symlinks=False)


def remove(path):
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="devices and owners")
def test_a_layer_applied_by_the_book(ran, area):
    r = ran(every_kind_of_base, lambda there: (every_kind_of_change(there), os.chown(there / "new", 3, 4)))
    (area / "image").mkdir()
    r.export("oci", area / "image")
    index = json.loads((area / "image" / "index.json").read_text())
    blobs = area / "image" / "blobs" / "sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    apply_layer(blobs / manifest["layers"][0]["digest"][7:], r.copy)
    assert differences(r.there, picture(r.copy, times=False)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_the_kernel_mounts_an_upper_directory(ran, area):
    def change(there):
        every_kind_of_change(there)
        os.setxattr(there / "edited", "user.a", b"1")

    r = ran(every_kind_of_base, change)
    disk = area / "disk"
    disk.mkdir()
    for name in ("upper", "work", "at"):
        (area / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        r.export("overlayfs", disk / "upper")
        (disk / "work").mkdir()
        options = f"lowerdir={r.copy},upperdir={disk}/upper,workdir={disk}/work"
        mount = ["mount", "-t", "overlay", "-o", options, "none", area / "at"]
        done = subprocess.run(mount, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no overlayfs here: {done.stderr.decode()}")
        try:
            assert differences(r.there, picture(area / "at", times=False)) == []
        finally:
            subprocess.run(["umount", area / "at"], check=True)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_what_the_kernel_left_in_an_upper_directory(ran, area):
    """Opaque directories, too, which goexfs itself does not write."""
    r = ran(every_kind_of_base, lambda there: None)
    disk = area / "disk"
    disk.mkdir()
    (area / "at").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        (disk / "upper").mkdir()
        (disk / "work").mkdir()
        options = f"lowerdir={r.copy},upperdir={disk}/upper,workdir={disk}/work,redirect_dir=off,metacopy=off,index=off"
        mount = ["mount", "-t", "overlay", "-o", options, "none", area / "at"]
        done = subprocess.run(mount, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no overlayfs here: {done.stderr.decode()}")
        try:
            at = area / "at"
            shutil.rmtree(at / "doomed")
            (at / "doomed").mkdir()
            write(at / "doomed" / "other", "opaque")
            write(at / "edited", "edited")
            (at / "deleted").unlink()
            expected = picture(at, times=False)
        finally:
            subprocess.run(["umount", area / "at"], check=True)
        _, run = r.came_back(disk / "upper")
        assert differences(expected, r.merged(run)) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_point_of_the_past(ran, area):
    r = ran(text_base, lambda there: (there / "a").write_text("then\n"))
    r.run.snapshot("then")
    with r.store.resume(r.run) as session:
        (session.mountpoint / "a").write_text("now\n")
    r.export("patch", area / "out", at="then")
    assert b"+then" in (area / "out").read_bytes()


def test_places_that_are_taken(ran, area):
    r = ran(text_base, text_change)
    (area / "out").mkdir()
    (area / "out" / "mine").touch()
    for form in ("overlayfs", "oci"):
        with pytest.raises(ExportFailed, match="not an empty directory"):
            r.export(form, area / "out")
    with pytest.raises(ExportFailed, match="cannot be written"):
        r.export("patch", area / "nowhere" / "out")
    assert os.listdir(area / "out") == ["mine"]


@pytest.mark.parametrize("junk", [b"", b"no patch at all\n", b"From nobody\n\nnothing\n", b"\x1f\x8bnot gzip"])
def test_what_is_nothing_to_import(ran, area, junk):
    r = ran(text_base, lambda there: None)
    (area / "junk").write_bytes(junk)
    before = [run.id for run in r.store.runs(all=True)]
    with pytest.raises(ImportRefused):
        r.came_back(area / "junk")
    assert [run.id for run in r.store.runs(all=True)] == before


def test_a_patch_that_does_not_apply(ran, area):
    r = ran(text_base, text_change)
    r.export("patch", area / "out")
    (r.base / "a").write_text("something else\n")
    before = [run.id for run in r.store.runs(all=True)]
    with pytest.raises(ImportRefused, match="does not apply"):
        r.came_back(area / "out")
    assert [run.id for run in r.store.runs(all=True)] == before


def test_modes_that_git_does_not_know_stay(ran, area):
    def prepare(base):
        text_base(base)
        (base / "a").chmod(0o640)
        (base / "in" / "side").chmod(0o600)

    def change(there):
        (there / "a").write_text("other\n")
        (there / "in" / "side").chmod(0o700)

    r = ran(prepare, change)
    r.export("patch", area / "out")
    _, run = r.came_back(area / "out")
    modes = {readable(c.path): stat.S_IMODE(c.after.mode) for c in run.diff()}
    assert modes == {"a": 0o640, "in/side": 0o700}


def test_a_sparse_file_stays_one(ran, area):
    def change(there):
        with open(there / "sparse", "wb") as file:
            file.truncate(1 << 28)
            file.seek(1 << 27)
            file.write(b"data")

    r = ran(text_base, change)
    r.export("overlayfs", area / "out")
    st = (area / "out" / "sparse").stat()
    assert st.st_size == 1 << 28
    assert st.st_blocks * 512 < 4 << 20


def test_every_form_is_known():
    from goexfs.cli.exporting import _FORMS

    assert tuple(_FORMS) == exchange.FORMS


def test_the_list_of_deletions_can_be_used_by_hand(ran, area):
    r = ran(text_base, text_change)
    r.export("tar", area / "out.tar")
    subprocess.run(["tar", "-C", r.copy, "-xf", area / "out.tar"], check=True, stderr=subprocess.DEVNULL)
    subprocess.run("xargs -0 rm -rf < .goexfs-deleted && rm .goexfs-deleted", shell=True, cwd=Path(r.copy), check=True)
    assert differences(r.there, picture(r.copy, times=False)) == []


AS_A_USER = """
import os, pathlib, sys, tarfile
import goexfs
from goexfs.session import exchange
os.chdir(os.environ["HOME"])
base = pathlib.Path("base"); base.mkdir(); (base / "old").write_text("old"); (base / "gone").write_text("gone")
with tarfile.open("of-root.tar", "w") as tar:
    info = tarfile.TarInfo("new"); info.uid = info.gid = 0; info.mode = 0o4644
    tar.addfile(info)
with goexfs.open_store("store") as store:
    run = exchange.import_run(store.store, "of-root.tar", base)
    run.merge()
    assert (base / "new").stat().st_uid == os.geteuid() != 0
    with store.start(base, on_exit="keep") as session:
        (session.mountpoint / "old").write_text("changed")
        (session.mountpoint / "gone").unlink()
        session.keep()
    run = store.run(session.id)
    print(exchange.export(run, "overlayfs", pathlib.Path("upper"), None))
    again = exchange.import_run(store.store, "upper", base)
    print([(str(c.status), c.path) for c in again.diff()])
"""


def test_an_ordinary_user(user):
    done = user.run([sys.executable, "-c", AS_A_USER])
    assert done.stdout.split("\n")[:2] == ["[]", "[('D', b'gone'), ('M', b'old')]"], done.stderr
