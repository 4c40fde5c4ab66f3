"""Changes in few lines: bounded, every change counted, no deletion hidden."""

from hypothesis import given
from hypothesis import strategies as st

from goexfs.cli import summary
from snapshots.review.changes import Change, Status


def change(status: str, path: bytes, old_path: bytes | None = None) -> Change:
    return Change(Status(status), path, old_path, None, None, True, ())


names = st.sampled_from([b"a", b"b", b"src", b"x\ny", b"\xff"])
paths = st.lists(names, min_size=1, max_size=5).map(b"/".join)


@given(
    st.lists(st.tuples(st.sampled_from("ADMTX"), paths), max_size=80, unique_by=lambda pair: pair[1]),
    st.integers(5, 20),
)
def test_folding_counts_everything_and_is_bounded(pairs: list[tuple[str, bytes]], limit: int) -> None:
    changes = [change(status, path) for status, path in sorted(pairs, key=lambda pair: pair[1])]
    lines = summary.fold(changes, limit)
    assert len(lines) <= limit
    assert sum(line.folded for line in lines) == len(changes)
    for one in changes:
        assert any(
            line.status == one.status
            and (one.path == line.path or not line.path or one.path.startswith(line.path + b"/"))
            for line in lines
        ), f"{one.status} {one.path!r} is in no line"


def test_few_changes_are_listed_one_by_one() -> None:
    lines = summary.summary(
        [change("A", b"new"), change("D", b"old"), change("R", b"there", b"here"), change("X", b"")], color=False
    )
    assert lines == ["  D  old", "  A  new", "  R  here -> there", "  X  ."]


def test_many_additions_do_not_push_a_deletion_out() -> None:
    changes = [change("A", b"build/%d/%d" % (n % 7, n)) for n in range(5000)]
    changes += [change("D", b"src/precious.py"), change("M", b"src/a.py")]
    lines = summary.summary(changes, color=False)
    assert lines[0] == "  D  src/precious.py"
    assert len(lines) <= summary.DELETIONS_SHOWN + summary.OTHERS_SHOWN
    assert "  A  build/0/  … 715 added" in lines
    assert "  M  src/a.py" in lines


def test_a_deleted_tree_is_one_line_with_its_count() -> None:
    changes = [change("D", b"old"), *(change("D", b"old/%d" % n) for n in range(300)), change("D", b"other")]
    assert summary.summary(changes, color=False) == ["  D  old/  … 301 deleted", "  D  other"]


def test_counts_begin_with_deletions() -> None:
    assert summary.counts([]) == "no changes"
    assert summary.counts([change("A", b"x")]) == "1 change: 1 added"
    assert (
        summary.counts([change("M", b"x"), change("D", b"y"), change("M", b"z")]) == "3 changes: 1 deleted, 2 modified"
    )


def test_name_status_forms() -> None:
    changes = [change("M", b"a b"), change("A", b"x\ny\xff"), change("R", b"new", b"old")]
    assert b"".join(summary.name_status(changes)) == b'M\ta b\nA\t"x\\ny\\377"\nR\told\tnew\n'
    assert b"".join(summary.name_status(changes, zero=True)) == b"M\0a b\0A\0x\ny\xff\0R\0old\0new\0"
    assert b"".join(summary.name_status(changes[:1], color=True)) == b"\x1b[33mM\x1b[0m\ta b\n"
