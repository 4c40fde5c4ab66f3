"""``goexfs ps``, ``kill``, ``pause`` and ``resume`` on a run at work; further bases; presets."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.commands import eventually

BEAT = "trap 'exit 7' TERM; while :; do echo x >> beat; sleep 0.05; done"


@pytest.fixture(params=["sandbox", "plain"])
def working(request: pytest.FixtureRequest, goexfs: Command) -> "Iterator[subprocess.Popen[str]]":
    """``goexfs run --name work`` with a command that writes all the time."""
    plain = ["--no-sandbox"] if request.param == "plain" else []
    process = subprocess.Popen(
        [*GOEXFS, "run", "--keep", "--name", "work", *plain, "--", "sh", "-c", BEAT],
        cwd=goexfs.cwd, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert eventually(lambda: len(goexfs.json("ps")["processes"]) > 0, within=30, every=0.1)
    yield process
    process.kill()
    process.communicate()


def beats(goexfs: Command) -> int:
    done = goexfs("diff", "work", "--json")
    assert done.returncode == 0, done.stderr
    mountpoint = goexfs.json("show", "work")["mountpoint"]
    return Path(mountpoint, "beat").stat().st_size


def test_paused_and_resumed(goexfs: Command, working: "subprocess.Popen[str]") -> None:
    listed = goexfs.json("ps", "work")["processes"]
    assert any(task["command"][:2] == ["sh", "-c"] for task in listed)
    assert goexfs("pause", "work").returncode == 0
    assert goexfs.json("show", "work")["paused"] is True
    assert "paused" in goexfs("ls").stdout
    before = beats(goexfs)  # the filesystem answers all the while
    time.sleep(0.4)
    assert beats(goexfs) == before
    assert goexfs("resume", "work").returncode == 0
    assert eventually(lambda: beats(goexfs) > before, within=10, every=0.1)
    assert goexfs("resume", "work").returncode == 72
    assert goexfs("kill", "work").returncode == 0
    assert working.wait(timeout=30) == 7
    assert goexfs.json("ps")["processes"] == []
    for verb in ("pause", "kill", "resume"):
        done = goexfs(verb, "work")
        assert (done.returncode, done.stderr.count("\n")) == (72, 1), done.stderr


def test_a_paused_run_can_be_killed_and_told_to_end(goexfs: Command, working: "subprocess.Popen[str]") -> None:
    goexfs("pause", "work")
    working.terminate()  # the command hears of it: it is woken for that
    assert working.wait(timeout=30) == 7
    assert goexfs.json("show", "work")["state"] == "kept"


def test_kill_with_sigkill_while_paused(goexfs: Command, working: "subprocess.Popen[str]") -> None:
    goexfs("pause", "work")
    assert goexfs("kill", "-s", "KILL", "work").returncode == 0
    assert working.wait(timeout=30) == 137
    assert goexfs("kill", "-s", "NOPE", "work").returncode == 2


def test_presets(goexfs: Command, area: Path) -> None:
    home, config = area / "home", area / "config"
    (home / ".npm").mkdir(parents=True)
    (config / "goexfs/presets").mkdir(parents=True)
    (config / "goexfs/presets/mine.toml").write_text('description = "Mine"\nenv = ["GREETING=hello"]\nrw = ["~/no"]\n')
    (config / "goexfs/presets/wrong.toml").write_text("cows = 3\n")
    environ = environment(HOME=str(home), XDG_CONFIG_HOME=str(config))
    done = goexfs("run", "--preset", "mine", "--preset", "node", "--discard", "--", "sh", "-c",
                  'echo "$GREETING"; touch ~/.npm/made', env=environ)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert list((home / ".npm").iterdir()) == []
    for name in ("nope", "wrong", "../default"):
        done = goexfs("run", "--preset", name, "--", "true", env=environ)
        assert (done.returncode, done.stderr.count("\n")) == (93, 1), done.stderr
    (config / "goexfs/presets/wrong.toml").unlink()
    listed = goexfs("run", "--preset", "list", env=environ).stdout
    assert all(name in listed for name in ("claude", "codex", "mine", "node", "python"))
