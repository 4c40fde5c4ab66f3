"""What a run or a file from elsewhere plants: nothing is ever written outside the base, nothing read through a link."""

import gzip
import io
import json
import os
import shutil
import stat
import tarfile
import unicodedata

import pytest

import goexfs
from goexfs.session import exchange
from snapshots.errors import BaseError, Conflict, ExportFailed, ImportRefused, MergeError
from snapshots.merging.merge import merge
from snapshots.merging.undo import undo
from tests.support.trees import differences, picture

ESCAPE = "\x1b]0;pwned\x07\x1b[2J"


class Scene:
    """A base, and beside it what must never change."""

    def __init__(self, area):
        self.area = area
        self.base, self.outside = area / "base", area / "outside"
        for place in (self.base, self.outside):
            (place / "d").mkdir(parents=True)
            (place / "d" / "file").write_text(f"of {place.name}\n")
            (place / "file").write_text(f"of {place.name}\n")
        (self.base / "out").symlink_to(self.outside)
        (self.base / "into").symlink_to(self.outside / "file")
        self.before = picture(self.outside)
        self.store = goexfs.open_store(area / "store")

    def run(self, change):
        with self.store.start(self.base, on_exit="keep") as session:
            change(session.mountpoint)
            session.keep()
        return self.store.run(session.id)

    def bring(self, place, **more):
        return exchange.import_run(self.store.store, os.fspath(place), self.base, **more)

    def check(self):
        assert differences(self.before, picture(self.outside)) == []
        assert sorted(os.listdir(self.area)) == sorted(
            name for name in os.listdir(self.area) if not name.startswith(("evil", "x"))
        )


@pytest.fixture
def scene(area):
    made = Scene(area)
    yield made
    made.check()
    made.store.close()


def member(name, kind=tarfile.REGTYPE, data=b"evil\n", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if kind == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(place, *members, opener=open):
    with opener(place, "wb") as out, tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.size else None)
    return place


EVIL = {
    "above": [member("../evil")],
    "above later": [member("d/../../evil")],
    "absolute": [member("/tmp/goexfs-evil")],
    "long": [member("x" * 300)],
    "deep": [member("/".join("x" * 1500))],
    "through a link of the base": [member("out/evil")],
    "a link of its own": [member("mine", tarfile.SYMTYPE, linkname="../outside"), member("mine/evil")],
    "hard link above": [member("mine", tarfile.LNKTYPE, linkname="../outside/file")],
    "hard link absolute": [member("mine", tarfile.LNKTYPE, linkname="/etc/passwd")],
    "hard link through a link": [member("mine", tarfile.LNKTYPE, linkname="out/file")],
    "hard link to nothing": [member("mine", tarfile.LNKTYPE, linkname="nowhere")],
    "device": [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "disk": [member("disk", tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "below a file": [member("file/evil")],
    "a whiteout of what is above": [member("d/.wh...", data=b"")],
    "a whiteout of itself": [member("d/.wh..", data=b"")],
    "a whiteout of nothing": [member("d/.wh.", data=b"")],
    "a whiteout above": [member("../outside/.wh.file", data=b"")],
    "no directory at the top": [member(".", data=b"file")],
    "deletions above": [member(".goexfs-deleted", data=b"d\0../outside/file\0",
                               pax_headers={"GOEXFS.role": "deleted"})],
    "an attribute that cannot be": [member("a", pax_headers={"SCHILY.xattr.user." + "x" * 300: "1"})],
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_archives(scene, area, name):
    before = picture(scene.base)
    with pytest.raises(ImportRefused, match="nothing was imported"):
        scene.bring(archive(area / "evil.tar", *EVIL[name]))
    assert scene.store.runs(all=True) == []
    assert differences(before, picture(scene.base)) == []
    os.unlink(area / "evil.tar")


def test_a_link_out_is_only_a_link(scene, area):
    """It is what it was in the archive, and writing where it leads is not what merging it does."""
    run = scene.bring(archive(area / "x.tar", member("d", tarfile.SYMTYPE, linkname="../outside/d")))
    run.merge()
    assert os.readlink(scene.base / "d") == "../outside/d"
    os.unlink(area / "x.tar")


def test_replaced_links_are_replaced(scene, area):
    """A file where the base has a symlink: not written through."""
    scene.bring(archive(area / "x.tar", member("into"), member("out", tarfile.DIRTYPE), member("out/evil"))).merge()
    assert not (scene.base / "into").is_symlink()
    assert (scene.base / "out" / "evil").read_bytes() == b"evil\n"
    os.unlink(area / "x.tar")


def test_a_bomb(scene, area):
    class Zeros(io.RawIOBase):
        def read(self, size=-1):
            return bytes(size)

    info = tarfile.TarInfo("bomb")
    info.size = 64 << 20
    with gzip.open(area / "evil.tar", "wb", compresslevel=1) as out:
        with tarfile.open(fileobj=out, mode="w|") as tar:
            tar.addfile(info, Zeros())
    with pytest.raises(ImportRefused, match="more than 8,388,608 bytes"):
        scene.bring(area / "evil.tar", limit=8 << 20)
    assert scene.store.runs(all=True) == []
    os.unlink(area / "evil.tar")


@pytest.mark.parametrize("junk", [b"\0" * 10240, b"x" * 600, bytes(range(256)) * 40])
def test_junk(scene, area, junk):
    (area / "evil.tar").write_bytes(junk)
    for form in ("tar", "patch", "mbox", "oci"):
        with pytest.raises(ImportRefused):
            run = scene.bring(area / "evil.tar", form=form)
            assert not run.diff()
            raise ImportRefused  # an archive of nothing is one
    os.unlink(area / "evil.tar")


NEW = "diff --git a/{0} b/{0}\nnew file mode {1}\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+{2}\n"


@pytest.mark.parametrize(
    "text",
    [
        NEW.format("../evil", 100644, "x"),
        NEW.format("d/../../evil", 100644, "x"),
        NEW.format("out/evil", 100644, "x"),
        NEW.format(".git/hooks/post-commit", 100755, "x"),
        "diff --git a/into b/into\n--- a/into\n+++ b/into\n@@ -1 +1 @@\n-of outside\n+evil\n",
        "diff --git a/../outside/file b/mine\nsimilarity index 100%\nrename from ../outside/file\nrename to mine\n",
    ],
)
def test_patches(scene, area, text):
    (area / "evil.patch").write_text(text)
    with pytest.raises(ImportRefused):
        scene.bring(area / "evil.patch")
    assert scene.store.runs(all=True) == []
    os.unlink(area / "evil.patch")


@pytest.mark.parametrize(
    "text",
    [
        NEW.format("/evil", 100644, "x"),  # b//evil: below the base, for all that git says
        NEW.format("mine", 120000, "../outside") + NEW.format("mine/evil", 100644, "x"),
    ],
)
def test_patches_that_stay_inside(scene, area, text):
    """They may be taken or refused; what they do, they do in the base."""
    (area / "evil.patch").write_text(text)
    try:
        scene.bring(area / "evil.patch").merge()
        assert any("evil" in names for _, _, names in os.walk(scene.base))
    except ImportRefused:
        pass
    os.unlink(area / "evil.patch")


def test_an_image_that_points_elsewhere(scene, area):
    image = area / "evil"
    (image / "blobs" / "sha256").mkdir(parents=True)
    (image / "oci-layout").write_text("{}")
    for digest in ("sha256:../../../outside/file", "md5:" + "0" * 32, "sha256:" + "0" * 64):
        (image / "index.json").write_text(json.dumps({"layers": [{"digest": digest}]}))
        with pytest.raises(ImportRefused, match="image layout"):
            scene.bring(image)
    (image / "index.json").write_text("[" * 100_000)
    with pytest.raises(ImportRefused):
        scene.bring(image)
    shutil.rmtree(image)


TRICKS = (
    ESCAPE, "new\nline", "tab\t", "-rf", "~", "$(touch evil)", " ",
    "\u202eexe.txt", "A", "a", "\uff41", "\u0130", "\u212a",
    unicodedata.normalize("NFC", "\u00e9"), unicodedata.normalize("NFD", "\u00e9"), ".wh.file", ".goexfs-deleted",
    os.fsdecode(b"\xff\xfe"),
)  # fmt: skip


def plant(there):
    """Everything that a run can plant to lead a merge or an export astray."""
    shutil.rmtree(there / "d")
    (there / "d").symlink_to("../outside/d")
    (there / "file").unlink()
    (there / "file").symlink_to("../outside/file")
    (there / "root").symlink_to("/")
    (there / "loop").symlink_to("loop")
    (there / "sub").mkdir()
    (there / "sub" / "up").symlink_to("..")
    (there / "into").unlink()
    (there / "into").write_text("mine now\n")
    (there / "out").unlink()
    (there / "out").mkdir()
    (there / "out" / "file").write_text("mine now\n")
    for name in TRICKS:
        (there / name).write_text(f"{name!a}\n")


def test_what_a_run_planted_merges_and_can_be_undone(scene):
    before = picture(scene.base)
    run = scene.run(plant)
    result = run.merge()
    assert (scene.base / "out" / "file").read_text() == "mine now\n"
    assert os.readlink(scene.base / "d") == "../outside/d"
    scene.check()
    undo(scene.store.store, result.number)
    assert differences(before, picture(scene.base)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="owners")
@pytest.mark.parametrize("form", ["patch", "tar", "overlayfs", "oci"])
def test_what_a_run_planted_goes_out_and_comes_back(scene, area, form):
    run = scene.run(plant)
    left_out = exchange.export(run, form, area / "made", None)
    again = scene.bring(area / "made")
    missing = {".wh.file"} if form == "oci" else set()
    assert bool(left_out) == bool(missing)
    found = {os.fsdecode(c.path): (str(c.status), c.after and c.after.mode) for c in run.diff()}
    assert {os.fsdecode(c.path): (str(c.status), c.after and c.after.mode) for c in again.diff()} == {
        path: value for path, value in found.items() if path not in missing
    }
    again.merge()
    scene.check()
    shutil.rmtree(area / "made") if (area / "made").is_dir() else os.unlink(area / "made")


def swap(scene, name):
    """Put a symlink to the outside where a directory is."""
    (scene.base / name).rename(scene.area / f"kept-{name}")
    (scene.base / name).symlink_to(scene.outside / name)


def test_a_directory_becomes_a_symlink_between_plan_and_apply(scene):
    def change(there):
        (there / "d" / "file").write_text("changed\n")
        (there / "d" / "new").write_text("new\n")

    run = scene.run(change)
    with pytest.raises((MergeError, Conflict, BaseError)):
        merge(scene.store.store, run.record, gate=lambda _: swap(scene, "d"))
    assert run.state == "kept"


def test_the_base_becomes_a_symlink_between_plan_and_apply(scene):
    def change(there):
        (there / "d" / "file").write_text("changed\n")

    def replace(_):
        scene.base.rename(scene.area / "kept")
        scene.base.symlink_to(scene.outside)

    run = scene.run(change)
    try:
        merge(scene.store.store, run.record, gate=replace)
    except (MergeError, Conflict, BaseError):
        assert run.state == "kept"
    # Either way it is the directory that was looked at, or none.
    assert (scene.outside / "d" / "file").read_text() == "of outside\n"


def test_an_undo_after_a_directory_became_a_symlink(scene):
    run = scene.run(lambda there: (there / "d" / "file").write_text("changed\n"))
    number = run.merge().number
    swap(scene, "d")
    with pytest.raises((MergeError, Conflict, BaseError)):
        undo(scene.store.store, number)


def test_nothing_is_exported_through_a_symlink(scene, area):
    run = scene.run(lambda there: (there / "new").write_text("new\n"))
    (area / "there").symlink_to(scene.outside)
    for form in ("overlayfs", "oci"):
        with pytest.raises(ExportFailed):
            exchange.export(run, form, area / "there", None)


def test_a_setuid_program_is_imported_as_what_it_is(scene, area):
    """Refusing would hide it; the diff marks it, and the base gets it by a merge only."""
    run = scene.bring(archive(area / "x.tar", member("su", mode=0o4755)))
    [change] = run.diff()
    assert stat.S_IMODE(change.after.mode) == 0o4755
    assert not (scene.base / "su").exists()
    os.unlink(area / "x.tar")
