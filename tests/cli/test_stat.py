"""``diff --stat`` read off patches."""

from goexfs.cli import stat

PIECES = [
    b"# mode of a b: 0644 -> 0600\n",
    b'diff --git "a/a b" "b/a b"\nindex 1..2 100644\n--- a/a b\t\n+++ b/a b\t\n@@ -1,2 +1,2 @@\n-x\n+y\n+--- z\n w\n',
    b"diff --git a/empty b/empty\nnew file mode 100644\nindex 1..2\n",
    b"diff --git a/pic b/pic\nnew file mode 100644\nBinary files /dev/null and b/pic differ\n",
    b"diff --git a/old b/new\nsimilarity index 100%\nrename from old\nrename to new\n",
    b'diff --git "a/x\\033y" "b/x\\033y"\ndeleted file mode 100644\n--- "a/x\\033y"\n+++ /dev/null\n@@ -1,90 +0,0 @@\n'
    + b"-l\n" * 90,
]


def test_lines() -> None:
    shown = b"".join(stat.lines(PIECES, {b"pic": (0, 123), b"a b": (1, 2)})).decode().splitlines()
    assert shown == [
        " # mode of a b: 0644 -> 0600",
        " a b        |  3 +-",
        " empty      |  0",
        " pic        | Bin 0 -> 123 bytes",
        " old => new |  0",
        ' "x\\033y"   | 90 ' + "-" * 40,
        " 5 files changed, 2 insertions(+), 91 deletions(-)",
    ]


def test_nothing() -> None:
    assert b"".join(stat.lines([], {})) == b" 0 files changed\n"
