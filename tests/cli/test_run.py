"""``goexfs run``, ``mount`` and ``umount`` as processes, on real mounts, without a terminal."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.trees import differences, picture


def test_without_a_terminal_it_keeps_and_says_what_to_type_next(goexfs: Command, fresh_base: Path) -> None:
    before = picture(fresh_base)
    done = goexfs("run", "--", "sh", "-c", "echo from the child; echo new > added; rm README")
    assert done.returncode == 0
    assert done.stdout == "from the child\n"
    lines = done.stderr.splitlines()
    assert lines[0].endswith("2 changes: 1 deleted, 1 added")
    assert lines[1:3] == ["  D  README", "  A  added"]
    (run,) = goexfs.json("ls")["runs"]
    for verb in ("diff", "merge", "discard", "run --run"):
        assert any(line.startswith(f"  goexfs {verb} {run['id']}") for line in lines), verb
    assert run["state"] == "kept"
    assert differences(before, picture(fresh_base)) == []
    for line in lines:
        if line.startswith("  goexfs merge"):
            assert (
                subprocess.run(
                    ["sh", "-c", line.replace("goexfs", '"$@"', 1), "sh", *GOEXFS],
                    cwd=fresh_base,
                    env=environment(),
                    check=False,
                ).returncode
                == 0
            )
    assert (fresh_base / "added").read_text() == "new\n"
    assert not (fresh_base / "README").exists()


@pytest.mark.parametrize("status", [0, 1, 2, 63, 64, 125, 126, 127, 255])
def test_the_exit_status_is_the_childs(status: int, goexfs: Command) -> None:
    assert goexfs("run", "--discard", "--", "sh", "-c", f"exit {status}").returncode == status


def test_a_child_ended_by_a_signal(goexfs: Command) -> None:
    assert goexfs("run", "--discard", "--", "sh", "-c", "kill -KILL $$").returncode == 137


def test_nothing_changed_is_said_in_one_line_and_discarded(goexfs: Command) -> None:
    done = goexfs("run", "--", "cat", "README")
    assert done.stdout == "A project.\n"
    assert done.stderr.count("\n") == 1
    assert "nothing changed" in done.stderr
    assert goexfs.json("ls")["runs"] == []


def test_keep_keeps_even_what_changed_nothing(goexfs: Command) -> None:
    goexfs("run", "--keep", "--name", "idle", "--", "true")
    assert [run["name"] for run in goexfs.json("ls")["runs"]] == ["idle"]


def test_discard_leaves_nothing_and_is_quiet(goexfs: Command, fresh_base: Path) -> None:
    before = picture(fresh_base)
    done = goexfs("run", "--discard", "--", "sh", "-c", "rm -r src; echo x > new")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert goexfs.json("ls", "--all")["runs"] == []
    assert differences(before, picture(fresh_base)) == []


def test_merge_merges_whatever_the_exit_status(goexfs: Command, fresh_base: Path) -> None:
    done = goexfs("run", "--merge", "--", "sh", "-c", "echo x > new; exit 3")
    assert done.returncode == 3
    assert (fresh_base / "new").read_text() == "x\n"
    assert [run["state"] for run in goexfs.json("ls", "--all")["runs"]] == ["merged"]


def test_a_refused_merge_keeps_the_run(goexfs: Command, fresh_base: Path) -> None:
    script = 'echo mine > README; "$@"'
    process = subprocess.Popen(
        [
            *GOEXFS,
            "run",
            "--merge",
            "--",
            "sh",
            "-c",
            "echo mine >> README; touch started; while ! test -e go; do sleep 0.05; done",
        ],
        cwd=fresh_base,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        deadline = time.monotonic() + 20
        while not (started := [run for run in goexfs.json("ls")["runs"] if run["changes"]]):
            assert time.monotonic() < deadline, script
            time.sleep(0.05)
        (fresh_base / "README").write_text("somebody else's\n")
        (fresh_base / "go").touch()
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 79, said
    assert "README" in said
    assert goexfs.json("show", started[0]["id"])["state"] == "kept"
    assert (fresh_base / "README").read_text() == "somebody else's\n"


def test_json_is_the_last_thing_on_stdout(goexfs: Command) -> None:
    done = goexfs(
        "run", "--json", "--name", "work", "--", "sh", "-c", "echo '{} from the child'; echo new > added; exit 5"
    )
    assert done.returncode == 5
    first, rest = done.stdout.split("\n", 1)
    assert first == "{} from the child"
    document = json.loads(rest)
    assert document["exit_status"] == 5
    assert document["verdict"] == "kept"
    assert [(one["status"], one["path"]) for one in document["changes"]] == [("A", "added")]


def test_going_on_with_a_kept_run(goexfs: Command, fresh_base: Path) -> None:
    run = goexfs.kept("echo one > added")
    done = goexfs("run", "--run", run, "--keep", "--", "sh", "-c", "cat added; echo two >> added")
    assert (done.returncode, done.stdout) == (0, "one\n")
    assert goexfs("run", "--run", run[:6], "--", "cat", "added").stdout == "one\ntwo\n"
    assert not (fresh_base / "added").exists()
    assert [one["path"] for one in goexfs.json("diff", run)["changes"]] == ["added"]


@pytest.mark.parametrize(
    ("command", "status"), [(["no-such-command"], 127), (["./README"], 126), (["./src"], 126), (["./no/such"], 127)]
)
def test_a_command_that_cannot_be_started(command: list[str], status: int, goexfs: Command) -> None:
    done = goexfs("run", "--", *command)
    assert done.returncode == status
    assert done.stderr.startswith("goexfs: ")
    assert "Traceback" not in done.stderr
    assert goexfs.json("ls")["runs"] == [], "nothing ran, so there is nothing to keep"


def test_a_failed_start_does_not_discard_the_kept_run_it_was_to_go_on_with(goexfs: Command) -> None:
    run = goexfs.kept("echo precious > added")
    assert goexfs("run", "--run", run, "--", "no-such-command").returncode == 127
    assert goexfs.json("show", run)["state"] == "kept"
    assert [one["path"] for one in goexfs.json("diff", run)["changes"]] == ["added"]


def test_the_childs_view(goexfs: Command, fresh_base: Path) -> None:
    done = goexfs(
        "run", "--discard", "--", "sh", "-c", 'pwd; echo "$GOEXFS_BASE"; test -n "$GOEXFS_RUN"', cwd=fresh_base / "src"
    )
    assert done.stdout == f"{fresh_base}/src\n{fresh_base}/src\n"
    done = goexfs(
        "run", "--base", fresh_base, "--discard", "--", "sh", "-c", 'pwd; echo "$GOEXFS_BASE"', cwd=fresh_base / "src"
    )
    assert done.stdout == f"{fresh_base}/src\n{fresh_base}\n"


def test_without_a_sandbox(goexfs: Command, fresh_base: Path) -> None:
    done = goexfs("run", "--no-sandbox", "--keep", "--", "sh", "-c", "pwd; echo new > added")
    assert done.returncode == 0
    assert done.stdout.strip() != str(fresh_base)
    assert not (fresh_base / "added").exists()


def test_a_writable_path_outside(goexfs: Command, area: Path) -> None:
    outside = area / "outside"
    outside.mkdir()
    script = f"echo x > {outside}/file"
    assert goexfs("run", "--discard", "--", "sh", "-c", script).returncode != 0
    assert not (outside / "file").exists()
    assert goexfs("run", "--discard", "--rw", outside, "--", "sh", "-c", script).returncode == 0
    assert (outside / "file").read_text() == "x\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("wish", ["--discard", "--keep", None])
def test_signals_reach_the_child_and_the_wish_holds(number: signal.Signals, wish: str | None, goexfs: Command) -> None:
    script = "trap 'exit 9' TERM HUP INT; echo new > added; echo ready; while :; do sleep 0.05; done"
    words = [*GOEXFS, "run", *([wish] if wish else []), "--", "sh", "-c", script]
    process = subprocess.Popen(
        words,
        cwd=goexfs.cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _out, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 9, said
    runs = goexfs.json("ls", "--all")["runs"]
    assert [run["state"] for run in runs] == ([] if wish == "--discard" else ["kept"])


def test_a_server_that_dies_is_said_and_the_run_kept(goexfs: Command) -> None:
    process = start(goexfs, "--merge", script="echo new > added; sync; echo ready; read _; ls . 2>/dev/null; true")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        goexfs("diff", "@", "--name-status")  # seals
        (run,) = goexfs.json("ls")["runs"]
        os.kill(run["pid"], signal.SIGKILL)
        _out, said = process.communicate("\n", timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 92, said
    assert "has died" in said
    assert goexfs.json("show", run["id"])["state"] == "kept", "and not merged"
    assert [change["path"] for change in goexfs.json("diff", run["id"])["changes"]] == ["added"]


def test_a_base_that_is_removed_meanwhile_is_said_and_the_run_kept(goexfs: Command, fresh_base: Path) -> None:
    process = start(goexfs, "--merge", script="echo new > added; echo ready; read _")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        fresh_base.rename(fresh_base.with_name("moved"))
        _out, said = process.communicate("\n", timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 65, said
    (run,) = goexfs.json("ls", cwd=fresh_base.parent)["runs"]
    assert run["state"] == "kept"
    fresh_base.with_name("moved").rename(fresh_base)
    assert goexfs("merge", run["id"]).returncode == 0
    assert (fresh_base / "added").read_text() == "new\n"


def start(goexfs: Command, *words: str, script: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    argv = [*GOEXFS, "run", *words, "--", "sh", "-c", script]
    return subprocess.Popen(argv, cwd=goexfs.cwd, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


# mount and umount


def test_mount_and_umount_by_place_and_by_run(goexfs: Command, area: Path, fresh_base: Path) -> None:
    mountpoint = area / "mnt"
    mountpoint.mkdir()
    done = goexfs("mount", fresh_base, mountpoint, "--name", "work")
    assert done.returncode == 0, done.stderr
    assert os.path.ismount(mountpoint)
    (mountpoint / "added").write_text("new\n")
    assert goexfs.json("show", "work")["state"] == "active"
    assert [one["path"] for one in goexfs.json("diff", "work")["changes"]] == ["added"], (
        "a mounted run is seen as it is"
    )
    done = goexfs("umount", mountpoint)
    assert done.returncode == 0, done.stderr
    assert not os.path.ismount(mountpoint)
    assert goexfs.json("show", "work")["state"] == "kept"

    assert goexfs("mount", "--run", "work", mountpoint).returncode == 0
    assert (mountpoint / "added").read_text() == "new\n"
    done = goexfs("umount", "work")
    assert done.returncode == 0, done.stderr
    assert not os.path.ismount(mountpoint)


def test_mount_json_names_the_run(goexfs: Command, area: Path, fresh_base: Path) -> None:
    (area / "mnt").mkdir()
    document = goexfs.json("mount", fresh_base, area / "mnt")
    assert document["mountpoint"] == str(area / "mnt")
    assert document["state"] == "active"
    assert goexfs("umount", document["id"]).returncode == 0


def test_mount_in_the_foreground_until_ctrl_c(goexfs: Command, area: Path, fresh_base: Path) -> None:
    mountpoint = area / "mnt"
    mountpoint.mkdir()
    process = subprocess.Popen(
        [*GOEXFS, "mount", "--foreground", fresh_base, mountpoint, "--name", "work"],
        cwd=fresh_base,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(mountpoint):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (mountpoint / "added").write_text("new\n")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert not os.path.ismount(mountpoint)
    assert goexfs.json("show", "work")["changes"] == 1


def test_umount_of_what_is_not_mounted(goexfs: Command, area: Path) -> None:
    run = goexfs.kept("echo x > added")
    assert goexfs("umount", "nothing").returncode == 67
    done = goexfs("umount", run)
    assert done.returncode == 72
    assert "not mounted" in done.stderr
    (area / "plain").mkdir()
    done = goexfs("umount", area / "plain")
    assert done.returncode == 67
    assert done.stderr.count("\n") == 1


def test_mounting_twice_and_in_the_wrong_place(goexfs: Command, area: Path, fresh_base: Path) -> None:
    mountpoint = area / "mnt"
    mountpoint.mkdir()
    full = area / "full"
    full.mkdir()
    (full / "file").touch()
    file = area / "file"
    file.touch()
    assert goexfs("mount", fresh_base, mountpoint, "--name", "work").returncode == 0
    try:
        assert goexfs("mount", "--run", "work", area).returncode == 71
        assert goexfs("run", "--run", "work", "--", "true").returncode == 71
        assert goexfs("merge", "work").returncode == 71
        assert goexfs("discard", "work").returncode == 71
        assert goexfs("mount", fresh_base, mountpoint).returncode == 85
        assert goexfs("mount", fresh_base, full).returncode == 83
        assert goexfs("mount", fresh_base, file).returncode == 83
        assert goexfs("mount", fresh_base, area / "missing").returncode == 83
        assert goexfs("mount", fresh_base, fresh_base / "empty").returncode == 84
        assert goexfs("mount", area / "missing", full).returncode == 65
        with (mountpoint / "README").open():
            assert goexfs("umount", "work").returncode == 86
    finally:
        assert goexfs("umount", "work").returncode == 0
    assert goexfs("mount", fresh_base, mountpoint, "--name", "work").returncode == 69
    assert [run["state"] for run in goexfs.json("ls")["runs"]] == ["kept"], "a mount that failed leaves no run behind"
