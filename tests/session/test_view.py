"""Paths inside the sandbox and on the host, and where a command is found."""

import os
from pathlib import Path

import pytest

from goexfs.session.confinement import writable_paths
from goexfs.session.errors import CommandNotExecutable, CommandNotFound, SandboxError
from goexfs.session.sandbox import Sandbox
from goexfs.session.variables import for_command
from goexfs.session.view import HOST, find_command


@pytest.fixture
def places(area: Path) -> dict[str, Path]:
    found = {name: area / name for name in ("base", "mount", "store", "tools")}
    for path in found.values():
        path.mkdir()
    return found


def executable(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def sandbox(places: dict[str, Path], **changes) -> Sandbox:
    found = {name: os.fsencode(path) for name, path in places.items()}
    return Sandbox(found["base"], found["mount"], (found["store"],), **changes)


def find(box: Sandbox, name: str, path: str = "/usr/bin:/bin", cwd: bytes | None = None) -> bytes:
    return find_command(os.fsencode(name), view=box.view(), cwd=cwd or box.base, env={b"PATH": os.fsencode(path)})


def test_the_base_is_the_mount(places: dict[str, Path]) -> None:
    view = sandbox(places).view()
    assert view.source(os.fsencode(places["base"] / "a/b")) == os.fsencode(places["mount"] / "a/b")
    assert view.source(os.fsencode(places["base"])) == os.fsencode(places["mount"])
    assert view.source(b"/usr/bin/env") == b"/usr/bin/env"
    assert view.source(os.fsencode(places["tools"])) is None, "the host's /tmp is not there"


def test_an_installation_stays_changeable_where_the_base_is_the_whole_system(places: dict[str, Path]) -> None:
    """A package manager that replaces /usr, where the interpreter is, is what ``--system`` is for."""
    tools = os.fsencode(places["tools"])
    view = Sandbox(b"/", os.fsencode(places["mount"]), shown=(b"/usr", tools)).view()
    assert view.source(b"/usr/bin/env") == os.fsencode(places["mount"] / "usr/bin/env")
    assert view.source(tools) == tools, "the host's /tmp is not there, so it is shown"
    assert view.source(os.fsencode(places["store"] / "store.db")) is None


def test_a_writable_path_is_there_also_below_tmp(places: dict[str, Path]) -> None:
    tools = os.fsencode(places["tools"])
    assert sandbox(places, rw=(tools,)).view().source(tools + b"/x") == tools + b"/x"


def test_a_script_that_only_the_run_has_is_found(places: dict[str, Path]) -> None:
    executable(places["mount"] / "bin/own-script")
    box = sandbox(places)
    assert find(box, "bin/own-script") == b"bin/own-script"
    assert find(box, str(places["base"] / "bin/own-script"))
    assert find(box, "own-script", path=f"/bin:{places['base']}/bin").endswith(b"/bin/own-script")
    with pytest.raises(CommandNotFound):
        find(box, "own-script")
    with pytest.raises(CommandNotFound, match="no such file in the run"):
        find(box, str(places["mount"] / "bin/own-script"))  # the mount itself is in /tmp, which is private


def test_what_the_run_deleted_is_not_found(places: dict[str, Path]) -> None:
    executable(places["base"] / "script")
    with pytest.raises(CommandNotFound):
        find(sandbox(places), "./script")


def test_not_executable(places: dict[str, Path]) -> None:
    executable(places["mount"] / "plain", 0o644)
    (places["mount"] / "folder").mkdir()
    for name in ("./plain", "./folder"):
        with pytest.raises(CommandNotExecutable):
            find(sandbox(places), name)
    with pytest.raises(CommandNotExecutable):
        find(sandbox(places), "plain", path=str(places["base"]))
    with pytest.raises(CommandNotFound, match="empty"):
        find(sandbox(places), "")


def test_symlinks_are_followed_in_the_view(places: dict[str, Path]) -> None:
    executable(places["mount"] / "real")
    (places["mount"] / "to-real").symlink_to(places["base"] / "real")
    (places["mount"] / "up").symlink_to("../base/real")
    (places["mount"] / "outside").symlink_to(executable(places["tools"] / "hidden"))
    (places["mount"] / "loop").symlink_to("loop")
    box = sandbox(places)
    assert find(box, "./to-real") and find(box, "./up")
    for name in ("./outside", "./loop"):
        with pytest.raises((CommandNotFound, CommandNotExecutable)):
            find(box, name)
    assert find(sandbox(places, rw=(os.fsencode(places["tools"]),)), "./outside")


def test_the_host_view() -> None:
    assert find_command(b"sh", view=HOST, cwd=b"/", env={}) in (b"/usr/bin/sh", b"/bin/sh")


def test_writable_paths_that_would_open_what_is_closed(places: dict[str, Path], area: Path) -> None:
    base, store = os.fsencode(places["base"]), os.fsencode(places["store"])
    (places["base"] / "below").mkdir()
    (area / "link").symlink_to(places["base"] / "below")
    for path in (places["base"], area / "link", places["store"], "/", area / "missing"):
        with pytest.raises(SandboxError):
            writable_paths([path], bases=(base,), hidden=(store,))
    assert writable_paths([places["tools"], area], bases=(base,), hidden=(store,)) == (
        os.fsencode(area), os.fsencode(places["tools"]),
    )  # fmt: skip


def test_the_environment(places: dict[str, Path]) -> None:
    box = sandbox(places)
    given = {b"GOEXFS_HOME": b"/x", b"TMPDIR": b"/home/me/tmp", b"HOME": b"/home/me"}
    child = for_command(given, run_id="r", base=box.base, sandbox=box)
    assert child == {b"GOEXFS_RUN": b"r", b"GOEXFS_BASE": box.base, b"TMPDIR": b"/tmp", b"HOME": b"/home/me"}
    plain = for_command(given, run_id="r", base=box.base, sandbox=None)
    assert plain[b"TMPDIR"] == b"/home/me/tmp"
