"""A base, what a run made of it, and its merge: what the tests of merging share."""

import os
import shutil

from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.merging.apply import carry_out
from snapshots.merging.planner import plan_merge
from tests.store.mirror import DictObjects, Mirror
from tests.store.operations import access_list
from tests.support.trees import differences, picture

STAGING = b".goexfs-merge-test"


class Session:
    """A base, a mirror of it to work in, and the merge of what was done there."""

    def __init__(self, area):
        self.base, self.there = area / "base", area / "run"
        self.mirror = Mirror(self.base, self.there)
        self.objects = DictObjects()

    def seal(self, **kwargs):
        self.state = self.mirror.state(self.objects, **kwargs)
        self.expected = picture(self.there)

    def plan(self, since_ns=None):
        with BaseTree(self.mirror.base) as tree:
            return plan_merge(UpperTree(self.state), tree, self.objects, since_ns=since_ns)

    def merge(self, since_ns=None, record=lambda: None):
        plan = self.plan(since_ns)
        assert not plan.conflicts, plan.conflicts
        with BaseTree(self.mirror.base) as tree:
            left = carry_out(plan, tree, self.objects, STAGING, record)
        assert left is None
        return plan

    def check(self):
        assert differences(self.expected, picture(self.base)) == []

    def conflicts(self, since_ns=None):
        return [(c.path.decode(), c.kind) for c in self.plan(since_ns).conflicts]


def write(path, text, mtime=10**18 + 5):
    path.write_text(text)
    os.utime(path, ns=(mtime, mtime))


def every_kind_of_base(base):
    write(base / "edited", "content of edited")
    write(base / "deleted", "gone")
    write(base / "renamed", "same")
    write(base / "replaced", "old")
    write(base / "retyped", "a file")
    write(base / "mode", "mode")
    write(base / "attributes", "x")
    os.setxattr(base / "attributes", "user.kept", b"1")
    os.setxattr(base / "attributes", "user.gone", b"1")
    write(base / "one", "linked")
    os.link(base / "one", base / "two")
    os.link(base / "one", base / "three")
    (base / "link").symlink_to("edited")
    os.mkfifo(base / "pipe")
    for folder in ("dir/sub", "doomed/sub", "swap1", "swap2", "deep/a/b"):
        (base / folder).mkdir(parents=True)
        write(base / folder / "f", folder)
    write(base / "doomed" / "saved", "saved")
    (base / "dir" / "sub").chmod(0o500)
    for folder, _, _ in os.walk(base, topdown=False):
        os.utime(folder, ns=(10**18, 10**18 + 3))


def every_kind_of_change(there):
    write(there / "edited", "other content entirely")
    (there / "deleted").unlink()
    (there / "renamed").rename(there / "dir" / "now")
    write(there / "new.tmp", "saved by an editor")
    (there / "new.tmp").rename(there / "replaced")
    (there / "retyped").unlink()
    (there / "retyped").mkdir(mode=0o751)
    write(there / "retyped" / "inner", "inner")
    (there / "mode").chmod(0o4755)
    os.setxattr(there / "attributes", "user.new", b"2")
    os.removexattr(there / "attributes", "user.gone")
    write(there / "one", "changed under three names")
    (there / "three").rename(there / "drei")
    (there / "link").unlink()
    (there / "link").symlink_to("/nowhere")
    (there / "pipe").unlink()
    os.mkfifo(there / "pipe2")
    (there / "dir").rename(there / "moved")
    write(there / "moved" / "sub" / "f", "edited below a renamed directory")
    (there / "moved" / "sub" / "g").symlink_to("f")
    (there / "doomed" / "saved").rename(there / "saved")
    shutil.rmtree(there / "doomed")
    (there / "swap1").rename(there / "t")
    (there / "swap2").rename(there / "swap1")
    (there / "t").rename(there / "swap2")
    (there / "deep" / "a" / "b").rename(there / "b")
    (there / "deep").rename(there / "b" / "deep")
    (there / "new" / "tree").mkdir(parents=True)
    write(there / "new" / "tree" / "f", "new")
    os.link(there / "new" / "tree" / "f", there / "new" / "hard")
    (there / "replaced").chmod(0o600)
    os.chown(there / "replaced", 1000, 1001)
    os.chown(there / "saved", 1000, 1001)
    os.chmod(there / "new", 0o2775)
    os.utime(there / "b", ns=(10**18, 10**18 + 7))
    for name, kind in ((b"system.posix_acl_access", "attributes"), (b"system.posix_acl_default", "new")):
        os.setxattr(there / kind, name, access_list(6))
    with (there / "sparse").open("wb") as file:
        file.seek(300_000)
        file.write(b"after a hole")
    os.utime(there / "sparse", ns=(10**18, 10**18 + 9))
    there.chmod(0o711)
