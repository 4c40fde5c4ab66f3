"""Rules in the merged view: what is hidden, fixed, masked or kept, by every name that leads there."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goexfs.policy.canaries import new_canary
from goexfs.policy.rules import Canary, Policy, Source
from snapshots.storage.store import Store
from tests.overlay.scene import Scene

Make = Callable[..., Scene]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def scene(tmp_path: Path, store: Store) -> Iterator[Make]:
    scenes: list[Scene] = []

    def make(*, canaries: tuple[Canary, ...] = (), watched: bool = True, **rules: object) -> Scene:
        made = Scene(tmp_path, store, watched=watched, policy=Policy((Source("test", **rules),), canaries))  # type: ignore[arg-type]
        scenes.append(made)
        return made

    yield make
    for each in scenes:
        each.close()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    (base / "config").mkdir(parents=True)
    (base / ".env").write_text("PASSWORD=real")
    (base / "config" / "key.pem").write_text("real key")
    (base / "config" / "app.toml").write_text("port = 1")
    (base / "readme").write_text("hello")
    return base


def refused(number: int, operation: Callable[..., object], *arguments: object, **options: object) -> None:
    with pytest.raises(OSError) as caught:
        operation(*arguments, **options)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


HIDE = (".env", "*.pem")


@pytest.mark.parametrize("watched", [True, False])
def test_a_hidden_path_is_not_there(scene: Make, base: Path, watched: bool) -> None:
    run = scene(hide=HIDE, watched=watched)
    assert sorted(run.names(b"")) == [b"config", b"readme"]
    assert run.names(b"config") == [b"app.toml"]
    for path in (b".env", b"config/key.pem"):
        refused(errno.ENOENT, run.node, path)
        refused(errno.ENOENT, run.mount.open, path, os.O_RDONLY, 0)
        refused(errno.ENOENT, run.mount.link, path, b"other")
        refused(errno.ENOENT, run.mount.rename, path, b"other", 0)
        refused(errno.ENOENT, run.mount.unlink, path)


def test_nothing_can_be_made_at_a_hidden_name(scene: Make, base: Path) -> None:
    run = scene(hide=HIDE)
    for path in (b".env", b"config/key.pem", b"never-there.pem", b"config/.env"):
        refused(errno.EPERM, run.mount.open, path, os.O_WRONLY | os.O_CREAT, 0o600)
        refused(errno.EPERM, run.mount.mkdir, path, 0o700)
        refused(errno.EPERM, run.mount.symlink, path, b"readme")
        refused(errno.EPERM, run.mount.link, b"readme", path)
        refused(errno.EPERM, run.mount.rename, b"readme", path, 0)
    refused(errno.EPERM, run.mount.rename, b"config", b".env", 0)
    assert run.overlay.change_count == 0


def test_what_the_base_gets_later_is_hidden_too(scene: Make, base: Path) -> None:
    run = scene(hide=HIDE)
    refused(errno.ENOENT, run.node, b"late.pem")
    (base / "late.pem").write_text("real")
    run.tell(b"late.pem")
    refused(errno.ENOENT, run.node, b"late.pem")
    assert b"late.pem" not in run.names(b"")


def test_moving_directories_uncovers_nothing(scene: Make, base: Path) -> None:
    (base / "config" / "deep").mkdir()
    (base / "config" / "deep" / "secret").write_text("real")
    run = scene(hide=("*.pem", "/config/deep/secret"))
    run.mount.rename(b"config", b"moved", 0)
    assert run.names(b"moved/deep") == []
    refused(errno.ENOENT, run.node, b"moved/deep/secret")
    refused(errno.ENOENT, run.node, b"moved/key.pem")
    run.mount.rename(b"moved/deep", b"deep", 0)
    refused(errno.ENOENT, run.node, b"deep/secret")
    run.remount()
    refused(errno.ENOENT, run.node, b"deep/secret")
    refused(errno.EPERM, run.mount.open, b"deep/secret", os.O_WRONLY | os.O_CREAT, 0o600)


def test_a_directory_that_seems_empty_keeps_its_secret(scene: Make, base: Path) -> None:
    (base / "only").mkdir()
    (base / "only" / "a.pem").write_text("real")
    run = scene(hide=HIDE)
    assert run.names(b"only") == []
    refused(errno.ENOTEMPTY, run.mount.rmdir, b"only")
    run.mount.mkdir(b"new", 0o755)
    refused(errno.ENOTEMPTY, run.mount.rename, b"new", b"only", 0)
    run.mount.rename(b"only", b"elsewhere", 0)
    refused(errno.ENOTEMPTY, run.mount.rmdir, b"elsewhere")


@pytest.mark.parametrize("watched", [True, False])
def test_another_name_of_a_hidden_file_is_hidden(scene: Make, base: Path, watched: bool) -> None:
    os.link(base / ".env", base / "config" / "innocent")
    os.link(base / "readme", base / "config" / "twin")
    run = scene(hide=HIDE, watched=watched)
    refused(errno.ENOENT, run.node, b"config/innocent")
    assert sorted(run.names(b"config")) == [b"app.toml", b"twin"]
    refused(errno.EPERM, run.mount.open, b"config/innocent", os.O_WRONLY | os.O_CREAT, 0o600)
    assert run.read(b"config/twin") == b"hello"
    os.link(base / "config" / "key.pem", base / "late")
    run.tell(b"late")
    refused(errno.ENOENT, run.node, b"late")


def test_a_secret_that_comes_with_two_names_later(scene: Make, base: Path) -> None:
    os.link(base / "readme", base / "twin")
    run = scene(hide=HIDE)
    assert run.read(b"twin") == b"hello"  # the search has been made by now
    (base / "new.pem").write_text("real")
    os.link(base / "new.pem", base / "innocent")
    run.tell(b"new.pem", b"innocent")
    refused(errno.ENOENT, run.node, b"innocent")


def test_spelling_makes_no_difference(scene: Make, base: Path) -> None:
    (base / "UPPER.PEM").write_text("real")
    run = scene(hide=(".ENV", "*.pem"))
    for path in (b".env", b"UPPER.PEM"):
        refused(errno.ENOENT, run.node, path)
    refused(errno.EPERM, run.mount.mkdir, b".Env", 0o755)


def test_exceptions(scene: Make, base: Path) -> None:
    (base / ".env.example").write_text("PASSWORD=")
    (base / ".env.d").mkdir()
    run = scene(hide=(".env", ".env.*", "!.env.example", "!.env.*/"))
    assert run.read(b".env.example") == b"PASSWORD="
    run.mount.mkdir(b".env.d/inside", 0o755)
    run.write(b"file", 0, b"x")
    run.mount.rename(b"file", b".env.d/file", 0)


def test_a_rule_that_depends_on_the_directory(scene: Make, base: Path) -> None:
    (base / "public").mkdir()
    (base / "public" / "a.key").write_text("public")
    run = scene(hide=("/secret/*.key",))
    assert run.read(b"public/a.key") == b"public"
    refused(errno.EPERM, run.mount.rename, b"public", b"secret", 0)
    run.mount.mkdir(b"secret", 0o755)
    refused(errno.EPERM, run.mount.rename, b"public/a.key", b"secret/a.key", 0)
    run.mount.rename(b"public/a.key", b"secret/a.txt", 0)


def fixed(run: Scene, path: bytes) -> None:
    """Whatever is tried with a file that is not to change."""
    before = run.overlay.change_count
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        refused(errno.EROFS, run.mount.open, path, flags, 0)
    refused(errno.EROFS, run.mount.truncate, path, 0)
    refused(errno.EROFS, run.mount.chmod, path, 0o777)
    refused(errno.EROFS, run.mount.chown, path, 1, 1, follow=False)
    refused(errno.EROFS, run.mount.utime, path, 1, 1, follow=True)
    refused(errno.EROFS, run.mount.setxattr, path, b"user.a", b"1", follow=False)
    refused(errno.EROFS, run.mount.link, path, b"elsewhere")
    refused(errno.EROFS, run.mount.unlink, path)
    refused(errno.EROFS, run.mount.rename, path, b"elsewhere", 0)
    run.write(b"other", 0, b"x")
    refused(errno.EROFS, run.mount.rename, b"other", path, 0)
    refused(errno.EROFS, run.mount.rename, b"other", path, 2)
    run.mount.unlink(b"other")
    assert run.overlay.change_count == before + 3


def test_read_only(scene: Make, base: Path) -> None:
    (base / "vendor" / "lib").mkdir(parents=True)
    (base / "vendor" / "empty").mkdir()
    (base / "vendor" / "lib" / "code").write_text("theirs")
    run = scene(read_only=("vendor/", "readme"))
    assert run.read(b"vendor/lib/code") == b"theirs"
    fixed(run, b"vendor/lib/code")
    fixed(run, b"readme")
    refused(errno.EROFS, run.mount.mkdir, b"vendor/new", 0o755)
    refused(errno.EROFS, run.mount.rename, b"vendor", b"mine", 0)
    refused(errno.EROFS, run.mount.rename, b"config", b"vendor/config", 0)
    refused(errno.EROFS, run.mount.rmdir, b"vendor/empty")
    refused(errno.EROFS, run.mount.open, b"config/readme", os.O_WRONLY | os.O_CREAT, 0o644)
    run.remount()
    fixed(run, b"vendor/lib/code")


def test_read_only_follows_the_directory_and_the_inode(scene: Make, base: Path) -> None:
    (base / "a" / "vendor").mkdir(parents=True)
    (base / "a" / "vendor" / "code").write_text("theirs")
    os.link(base / "a" / "vendor" / "code", base / "other-name")
    run = scene(read_only=("/a/vendor/",))
    fixed(run, b"other-name")
    run.mount.rename(b"a", b"b", 0)
    fixed(run, b"b/vendor/code")
    refused(errno.EROFS, run.mount.rename, b"b/vendor", b"vendor", 0)


def test_no_delete(scene: Make, base: Path) -> None:
    (base / "config" / "empty").mkdir()
    run = scene(no_delete=("config/",))
    refused(errno.EPERM, run.mount.unlink, b"config/app.toml")
    refused(errno.EPERM, run.mount.rename, b"config/app.toml", b"moved", 0)
    refused(errno.EPERM, run.mount.rename, b"config", b"moved", 0)
    refused(errno.EPERM, run.mount.rmdir, b"config/empty")
    run.write(b"other", 0, b"x")
    refused(errno.EPERM, run.mount.rename, b"other", b"config/app.toml", 2)
    run.write(b"config/app.toml", 0, b"port = 2")
    run.mount.rename(b"other", b"config/app.toml", 0)  # as programs do that save a file
    assert run.read(b"config/app.toml") == b"x"
    refused(errno.EPERM, run.mount.unlink, b"config/app.toml")
    run.mount.mkdir(b"config/new", 0o755)


@pytest.mark.parametrize("watched", [True, False])
def test_masked(scene: Make, base: Path, watched: bool) -> None:
    os.link(base / "config" / "key.pem", base / "innocent")
    os.setxattr(base / "config" / "key.pem", b"user.secret", b"real")
    run = scene(mask={"*.pem": "placeholder", "/readme": ""}, watched=watched)
    for path, content in ((b"config/key.pem", b"placeholder"), (b"innocent", b"placeholder"), (b"readme", b"")):
        assert run.read(path) == content
        node = run.node(path)
        assert node.size == len(content)
        assert run.overlay.listxattr(node) == []
        refused(errno.ENODATA, run.overlay.getxattr, node, b"user.secret")
        fixed(run, path)
    (base / "readme").write_text("longer than it was")
    run.tell(b"readme")
    assert run.read(b"readme") == b""
    run.mount.rename(b"config", b"moved", 0)
    assert run.read(b"moved/key.pem") == b"placeholder"
    run.remount()
    assert run.read(b"moved/key.pem") == b"placeholder"


@pytest.mark.parametrize("watched", [True, False])
def test_a_canary_is_there_and_the_file_in_its_place_is_not(scene: Make, base: Path, watched: bool) -> None:
    fake, new = new_canary(b".env"), new_canary(b"config/credentials")
    run = scene(hide=HIDE, canaries=(fake, new), watched=watched)
    assert run.read(b".env") == fake.content
    assert run.read(b"config/credentials") == new.content
    assert b".env" in run.names(b"")
    assert b"credentials" in run.names(b"config")
    number = run.node(b"config/credentials").ino
    fixed(run, b".env")
    fixed(run, b"config/credentials")
    run.mount.forget(1.0)
    assert run.node(b"config/credentials").ino == number
    run.overlay.everything_changed()
    assert run.read(b"config/credentials") == new.content
    refused(errno.ENOTEMPTY, run.mount.rmdir, b"config")
    run.seal()
    assert not [e for e in run.store.upper(run.run).load().entries.values() if e.ino == number]
