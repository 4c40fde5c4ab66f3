"""What deserves a second look: every rule, its bounds, and that nothing ordinary is marked."""

import stat
import time

import pytest

from goexfs.cli import attention
from goexfs.secondlook import places, second_look, texts
from snapshots.layers.content import BytesContent
from snapshots.review.changes import Change, Side, Status

BASE = b"/home/me/project"


def side(path, data=b"", mode=0o100644, target=None, xattrs=None, rdev=0) -> Side:
    return Side(
        path=path, mode=mode, uid=0, gid=0, size=len(target or data), mtime_ns=0, rdev=rdev, nlink=1, target=target,
        node=object(), read_xattrs=lambda: xattrs or {}, opener=lambda: BytesContent(data), lister=list,
    )  # fmt: skip


def added(path, data=b"x\n", **kwargs) -> Change:
    made = side(path, data, **kwargs)
    return Change(Status.ADDED, path, None, None, made, not made.is_dir, ())


def modified(path, old, new, **kwargs) -> Change:
    return Change(Status.MODIFIED, path, None, side(path, old, **kwargs), side(path, new, **kwargs), True, ())


def deleted(path, mode=0o100644) -> Change:
    return Change(Status.DELETED, path, None, side(path, mode=mode), None, True, ())


def link(path, target) -> Change:
    return added(path, target=target, mode=0o120777)


def kinds(*changes) -> list[str]:
    return [mark.kind for mark in second_look(changes, BASE).marks]


def test_nothing_ordinary_is_marked():
    ordinary = [
        added(b"src/new.py"), modified(b"README.md", b"a\n", b"b\n"), added(b"Makefile"), added(b"tests/conftest.py"),
        link(b"link", b"src/new.py"), link(b"src/up", b"../README.md"), link(b"abs", BASE + b"/src"), deleted(b"old"),
        added(b"package.json", b'{"name": "x", "scripts": {"test": "jest"}}'), added(b".git/hooks/pre-commit.sample"),
        added(b"profile.py"), added(b"my.bashrc.md"), added(b"d", mode=0o040755), added(b"docs/gitmodules"),
        added(b"link.txt", b"https://user@example.org/x http://host:8080/a@b"), added(b"sk.txt", b"task-abc sk-ant-1"),
    ]  # fmt: skip
    assert kinds(*ordinary) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b".git/hooks/pre-commit", "git-hook"), (b"sub/repo/.git/hooks/post-merge", "git-hook"), (b".husky/x",
        "git-hook"),
        (b".gitmodules", "git-config"), (b".github/workflows/ci.yml", "ci"), (b".gitlab-ci.yml", "ci"),
        (b"Jenkinsfile", "ci"), (b".circleci/config.yml", "ci"), (b"azure-pipelines.yml", "ci"), (b".bashrc",
        "start-up"),
        (b"home/.config/fish/conf.d/x.fish", "start-up"), (b".envrc", "start-up"), (b".ssh/authorized_keys", "access"),
        (b".vscode/tasks.json", "editor-task"), (b".idea/workspace.xml", "editor-task"), (b"setup.py", "install-hook"),
        (b"venv/lib/x.pth", "install-hook"), (b".npmrc", "package-source"), (b"poetry.lock", "lock-file"),
        (b"CLAUDE.md", "agent"), (b".claude/settings.json", "agent"), (b".GIT/Hooks/pre-push", "git-hook"),
    ],
)  # fmt: skip
def test_places(path, kind):
    assert kinds(added(path)) == [kind]
    assert kinds(deleted(path)) == [kind], "gone is a change, too"
    assert kinds(Change(Status.RENAMED, b"elsewhere", path, side(path), side(b"elsewhere"), False, ())) == [kind]


def test_places_that_depend_on_what_is_in_them():
    assert kinds(modified(b".git/config", b"[core]\n", b"[core]\n\thooksPath = /tmp/x\n")) == ["git-config"]
    assert kinds(modified(b".git/config", b"[core]\n", b"[core]\n\tbare = false\n")) == []
    assert kinds(added(b"package.json", b'{"scripts": {"postinstall": "node x"}}')) == ["install-hook"]


def test_every_kind_of_the_table_has_its_place_in_the_order():
    assert {place.kind for place in places.PLACES} <= set(places.GRAVITY)


def test_rights():
    assert kinds(added(b"x", mode=0o100755)) == ["executable"]
    assert kinds(added(b"x", mode=0o104755)) == ["setuid", "executable"]
    gained = Change(
        Status.ATTRS_CHANGED, b"x", None, side(b"x"), side(b"x", mode=0o100644 | stat.S_IXUSR), False, ("mode",)
    )
    assert kinds(gained) == ["executable"]
    assert kinds(modified(b"x", b"a", b"b", mode=0o104755)) == ["setuid"], "the rights are old, the program is new"
    assert kinds(modified(b"x", b"a", b"b", mode=0o102755)) == ["setuid"]
    assert kinds(modified(b"x", b"a", b"b", mode=0o102644)) == [], "mandatory locking, once"
    assert kinds(modified(b"x", b"a", b"b", mode=0o100755)) == [], "it was one before"
    assert kinds(added(b"x", xattrs={b"security.capability": b"\1"})) == ["capability"]
    assert kinds(added(b"x", mode=0o060600, rdev=7)) == ["device"]


@pytest.mark.parametrize(
    "target", [b"/etc/passwd", b"../x", b"a/../../x", b"sub/../../../home/me/project-2", b"/home/me/project2", b"/"]
)
def test_links_that_leave(target):
    assert kinds(link(b"link", target)) == ["link-outside"]
    assert kinds(deleted(b"link", mode=0o120777)) == []


def test_links_that_stay():
    assert kinds(link(b"a/b/link", b"../../x"), link(b"l", b"/home/me/project/../project/x"), link(b"m", b"..x")) == []


def test_mass_deletions():
    gone = [deleted(b"src", mode=0o040755), *(deleted(b"src/f%d" % n) for n in range(12))]
    (mark,) = second_look(gone, BASE).marks
    assert (mark.path, mark.kind) == (b"src", "mass-deletion")
    assert "12 files" in mark.reason
    assert kinds(*gone[:5]) == []
    assert kinds(*(deleted(b"d%d/f" % n) for n in range(60))) == ["mass-deletion"]


@pytest.mark.parametrize(
    "secret",
    [
        b"-----BEGIN OPENSSH PRIVATE KEY-----", b"AKIAIOSFODNN7EXAMPLE", b"ghp_" + b"a1" * 18, b"glpat-" + b"x" * 20,
        b"AIza" + b"B" * 35, b"xoxb-123456789012-abcdefghij", b"sk_live_" + b"4" * 24, b"sk-ant-api03-" + b"q" * 40,
        b"postgres://admin:hunter22@db.example.org/x", b"npm_" + b"A" * 36, b"hf_" + b"a" * 34,
        b"AccountKey=" + b"A" * 86 + b"==",
    ],
)  # fmt: skip
def test_secrets(secret):
    assert kinds(added(b"notes", b"key: " + secret + b"\n")) == ["secret"]
    assert kinds(modified(b"notes", secret, b"more\n" + secret)) == [], "it was there before"
    look = second_look([added(b"notes", secret)], BASE)
    assert secret.decode() not in "".join(attention.lines(look, color=False)), "and is not printed again"


def test_text_that_reads_otherwise_than_it_looks():
    assert kinds(added(b"x.py", "if a \u202e == b\n".encode())) == ["hidden-text"]
    assert kinds(modified(b"x.py", "\u202e".encode(), "\u202e more".encode())) == []
    assert kinds(added("inv\u200bisible".encode())) == ["hidden-text"]
    assert kinds(added("ünïcode".encode(), "ünïcode".encode())) == []


def test_binary_instead_of_text():
    assert kinds(modified(b"x", b"text\n", b"\0\1\2")) == ["binary-over-text"]
    assert kinds(modified(b"x", b"\0", b"\0\1\2"), modified(b"y", b"", b"\0")) == []


def test_what_was_not_looked_at_is_said(monkeypatch):
    monkeypatch.setattr(texts, "MOST_PER_FILE", 10)
    monkeypatch.setattr(texts, "MOST_FILES", 2)
    look = second_look([added(b"a"), added(b"b", b"x" * 11), added(b"c"), added(b"d")], BASE)
    assert look.unread == 3
    assert "3 files" in list(attention.lines(look, color=False))[-1]
    assert attention.fields(look) == {"second_look": [], "not_looked_into": 3}


def test_the_listing_is_bounded_and_counts_everything():
    look = second_look([added(b"bin/x%04d" % n, mode=0o100755) for n in range(300)], BASE)
    lines = list(attention.lines(look, color=False))
    assert len(lines) == 2 + attention.MOST_SHOWN
    assert lines[0] == "deserves a second look (300 paths):"
    assert lines[-1].endswith(f"{300 - attention.MOST_SHOWN} more: new executable")
    assert len(attention.fields(look)["second_look"]) == 300


def test_names_are_harmless():
    look = second_look([added(b"x\n\x1b[2J", mode=0o104755)], BASE)
    line = list(attention.lines(look, color=False))[1]
    assert "\x1b" not in line
    assert '"x\\n\\033[2J"' in line


def test_ten_thousand_changes_take_little():
    data = b"module.exports = 1\n"
    changes = [added(b"node_modules/p%d/lib/file%d.js" % (n % 100, n), data) for n in range(10_000)]
    began = time.process_time()
    look = second_look(changes, BASE)
    assert time.process_time() - began < 3
    assert look.unread == 10_000 - texts.MOST_FILES
