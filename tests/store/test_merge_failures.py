"""Merging when system calls fail: every one of them in turn, and the base is the old tree or the new one."""

import errno
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.errors import MergeError
from snapshots.layers.base import BaseTree
from snapshots.merging.apply import carry_out
from snapshots.storage import durable
from tests.store.mirror import Mirror
from tests.store.operations import base_sequences, perform, sequences
from tests.store.sessions import STAGING, Session, every_kind_of_base, every_kind_of_change, write
from tests.support.trees import differences, picture


@pytest.fixture
def area(tmp_path):
    (tmp_path / "base").mkdir()
    return tmp_path


@pytest.fixture
def start(area):
    made = []

    def begin():
        made.append(Session(area))
        return made[-1]

    yield begin
    for session in made:
        session.mirror.close()


class Seam:
    """Fails the Nth step at the write seam."""

    def __init__(self, fail_at=None, number=errno.EIO):
        self.count, self.fail_at, self.number = 0, fail_at, number
        self.names = []

    def __call__(self, name, where):
        self.count += 1
        self.names.append(name)
        if self.count == self.fail_at:
            raise OSError(self.number, os.strerror(self.number), where)

    def __enter__(self):
        durable.seam = self
        return self

    def __exit__(self, *exc):
        durable.seam = None


def test_every_step_failing_in_turn_is_taken_back(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    s.seal(style="ranges")
    before = picture(s.base)
    plan = s.plan()
    recorded = []
    failed = 0
    for number in range(1, 10_000):
        with BaseTree(s.mirror.base) as tree, Seam(number) as seam:
            try:
                left = carry_out(plan, tree, s.objects, STAGING, lambda: recorded.append(seam.count))
                break
            except MergeError:
                failed += 1
        assert not recorded
        assert differences(before, picture(s.base)) == [], f"step {number}: {seam.names[-1]}"
        plan = s.plan(time.time_ns())  # ctimes have changed, and that is in order
    # The first step whose failure does no harm comes after the record: only the staging directory is left.
    assert number > recorded[0]
    assert left is not None
    (s.base / os.fsdecode(left)).rename(area / "left")
    os.utime(s.base, ns=plan.root_times_ns)
    s.check()
    assert failed > 80
    print(f"{failed} steps failed in turn")


def test_failures_after_the_record_leave_the_new_tree(area, start):
    write(area / "base" / "f", "f")
    (area / "base" / "d" / "e").mkdir(parents=True)
    s = start()
    write(s.there / "f", "changed")
    shutil.rmtree(s.there / "d")
    s.seal()
    saved = shutil.copytree(s.base, area / "saved")
    plan = s.plan()
    after = None
    for number in range(1, 1000):
        with BaseTree(s.mirror.base) as tree, Seam() as seam:
            def record(seam=seam, number=number):
                seam.fail_at = seam.count + number

            left = carry_out(plan, tree, s.objects, STAGING, record)
        if left is not None:
            shutil.rmtree(s.base / os.fsdecode(left))
        assert (s.base / "f").read_text() == "changed"
        assert not (s.base / "d").exists()
        if seam.count < seam.fail_at:
            break
        after = number
        shutil.rmtree(s.base)
        shutil.copytree(saved, s.base)
        mirror = Mirror(s.base, area / f"run{number}")
        write(area / f"run{number}" / "f", "changed")
        shutil.rmtree(area / f"run{number}" / "d")
        s.mirror.close()
        s.mirror, s.there = mirror, area / f"run{number}"
        s.seal()
        plan = s.plan()
    assert after is not None
    assert after > 5


@given(base_sequences, sequences, st.integers(min_value=1, max_value=60))
def test_a_failure_anywhere_leaves_the_base_as_it_was(base_ops, ops, number):
    with tempfile.TemporaryDirectory(prefix="gxm-") as name:
        area = Path(name)
        (area / "base").mkdir()
        for op in base_ops:
            perform(os.fsencode(area / "base"), op)
        s = Session(area)
        try:
            for op in ops:
                perform(os.fsencode(s.there), op)
            s.seal()
            before = picture(s.base)
            plan = s.plan()
            with BaseTree(s.mirror.base) as tree, Seam(number):
                try:
                    carry_out(plan, tree, s.objects, STAGING, lambda: None)
                except MergeError:
                    assert differences(before, picture(s.base)) == []
        finally:
            s.mirror.close()
