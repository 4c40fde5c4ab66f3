"""``goexfs policy``: which rule decides for a path, the rules there are, and the user's word on what waits."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import goexfs
from goexfs.cli.group import cli
from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.mounts import eventually


@pytest.fixture
def base(fresh_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (fresh_base / ".env").write_text("TOKEN=1")
    (fresh_base / "keys").mkdir()
    for name in "ab":
        (fresh_base / f"keys/{name}.secret").write_text("x")
    (fresh_base / ".goexfs.toml").write_text('no_delete = ["/docs/"]\nlimits.files = { most = 9, then = "deny" }\n')
    (tmp_path / "strict.toml").write_text('hide = ["*.secret"]\nmask = { "pass\\twords" = "none" }\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(fresh_base)
    return fresh_base


@pytest.fixture
def command(goexfs_home: Path, base: Path) -> Command:
    """``goexfs`` in a process of its own, over that base."""
    return Command(base)


def ask(*words: str) -> "tuple[int, str]":
    """Exit status and all that is said; in this process, since nothing is mounted."""
    result = CliRunner().invoke(cli, ["policy", *words], prog_name="goexfs")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def fields(*words: str) -> Any:
    status, said = ask(*words, "--json")
    assert status == 0, said
    return json.loads(said)


def test_check_says_which_rule_decides(base: Path, tmp_path: Path, goexfs_home: Path) -> None:
    strict = str(tmp_path / "strict.toml")
    paths = (".env", "docs", "docs/guide", "keys/a.secret", ".", "nothing/of the kind")
    status, said = ask("check", *paths, "--policy", strict)
    assert status == 0, said
    lines = said.splitlines()
    assert lines[0] == ".env: hidden"
    assert lines[1].startswith("  hide: .env")
    assert lines[1].endswith(" in built-in")
    assert "docs: cannot be deleted" in lines
    assert "  no_delete: /docs/ in .goexfs.toml" in said.replace(str(base) + "/", "")
    assert "keys/a.secret: hidden" in lines
    assert f"  hide: *.secret in {strict}" in lines
    assert ".: seen and writable" in lines
    assert "nothing/of the kind: seen and writable" in lines


def test_check_of_what_options_change(base: Path, goexfs_home: Path) -> None:
    assert fields("check", ".env", "--show", ".env")["paths"][0]["hide"] is False
    assert fields("check", ".env", "--no-default-policy")["paths"][0]["rules"] == []
    (one, two) = fields("check", "keys/", "keys/a.secret", "--hide", "keys/")["paths"]
    assert (one["path"], one["hide"], two["path"], two["hide"]) == ("keys", True, "keys/a.secret", True)
    assert two["rules"][-1] == {
        "kind": "hide", "holds": True, "source": "the command line", "pattern": "keys/", "matches": "keys"
    }  # fmt: skip
    (canary,) = fields("check", "id_rsa", "--canary", "id_rsa")["paths"]
    assert canary["canary"] is True
    assert ask("check", str(base / "docs"), "--base", str(base))[1].startswith("docs: ")


def test_show_lists_all_of_it(base: Path, tmp_path: Path, goexfs_home: Path) -> None:
    shown = fields("show", "--policy", str(tmp_path / "strict.toml"), "--canary", "trap")
    assert {"limit": "files", "most": 9, "then": "deny"}.items() <= shown["limits"][1].items()
    assert [limit["limit"] for limit in shown["limits"]] == ["bytes", "files", "open_files"]
    assert shown["canaries"] == [{"path": "trap"}]
    assert {"kind": "mask", "pattern": "pass\twords", "source": str(tmp_path / "strict.toml")} in shown["rules"]
    status, said = ask("show", "--policy", str(tmp_path / "strict.toml"), "--canary", "trap", "--no-default-policy")
    assert status == 0
    assert "limit: files 9, then deny" in said
    assert "canary: trap" in said
    assert "pass\\twords" in said, "a name cannot move the terminal's cursor"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["check"], 2, "Missing argument 'PATH...'"),
        (["check", "/etc/passwd"], 2, "is not in"),
        (["check", "x", "--policy", "missing.toml"], 105, "missing.toml"),
        (["check", "x", "--base", "/missing"], 65, "/missing"),
        (["check", "x", "--run", "unknown"], 67, "no run is called 'unknown'"),
        (["check", "x", "--run", "unknown", "--hide", "y"], 2, "--run asks about a run as it began"),
        (["show", "--run", "unknown", "--base", "."], 2, "--run asks about a run as it began"),
        (["allow", "unknown"], 67, "no run is called 'unknown'"),
        (["allow"], 2, "Missing argument 'RUN'"),
        (["allow", "x", "--limit", "memory"], 2, "'memory' is not one of"),
        (["allow", "x", "--most", "lots"], 2, "'lots' is no size; write 256M or 2G"),
        (["deny", "x", "--most", "3"], 2, "No such option '--most'"),
        (["forbid"], 2, "No such command 'forbid'"),
    ],
)  # fmt: skip
def test_wrong_words(base: Path, goexfs_home: Path, words: list[str], status: int, said: str) -> None:
    goexfs.open_store().close()
    result = ask(*words)
    assert result[0] == status, result[1]
    assert said in result[1]
    assert len([line for line in result[1].splitlines() if line.startswith(("goexfs:", "Error:"))]) == 1


@pytest.mark.parametrize("option", [("--policy", "x"), ("--hide", "x"), ("--canary", "x"), ("--no-default-policy",)])
@pytest.mark.parametrize("verb", ["run", "mount"])
def test_a_run_that_goes_on_keeps_its_policy(base: Path, goexfs_home: Path, verb: str, option: tuple[str, ...]) -> None:
    words = [verb, "--run", "work", *option, *(["--", "true"] if verb == "run" else ["/mnt"])]
    result = CliRunner().invoke(cli, words, prog_name="goexfs")
    assert result.exit_code == 2
    assert "under the policy that it began with: leave the options of a policy out" in result.output


def test_a_file_that_makes_no_sense(base: Path, goexfs_home: Path) -> None:
    (base / ".goexfs.toml").write_text('hidden = ["x"]\n')
    status, said = ask("show")
    assert status == 105
    assert len(said.splitlines()) == 1
    assert ".goexfs.toml" in said
    assert "hidden" in said


def test_of_a_run_and_what_waits_in_it(command: Command, base: Path, tmp_path: Path) -> None:
    """The policy of a run is the one that it began with; the answers to what waits are kept in it."""
    (tmp_path / "pause.toml").write_text('hide = ["x"]\nlimits.deletions = { most = 0, then = "pause" }\n')
    argv = [*GOEXFS, "run", "--keep", "--name", "work", "--policy", str(tmp_path / "pause.toml"), "--", "sh", "-c"]
    process = subprocess.Popen(
        [*argv, "rm keys/a.secret; echo $?; rm keys/b.secret; echo $?"], cwd=base, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: "waiting" in command("show", "work").stdout, 20)
        (base / ".goexfs.toml").unlink()
        (one,) = command.json("policy", "check", "x", "--run", "work")["paths"]
        assert one["hide"] is True
        assert command.json("policy", "allow", "work", "--most", "1") == {
            "limits": [{"limit": "deletions", "most": 1, "then": "pause"}]
        }
        eventually(lambda: "waiting" in command("show", "work").stdout, 20)
        denied = command("policy", "deny", "work", "--limit", "deletions")
        assert (denied.returncode, denied.stderr) == (0, "goexfs: run work: deletions up to 1, then deny\n")
        assert process.communicate(timeout=20)[0] == "0\n1\n"
    finally:
        process.terminate()
        process.communicate(timeout=20)
    limits = {one["limit"]: one for one in command.json("policy", "show", "--run", "work")["limits"]}
    assert limits["deletions"] == {"limit": "deletions", "most": 1, "then": "deny", "source": "goexfs policy"}
    assert limits["files"]["most"] == 9, "that of the file as it was"
    nothing = command("policy", "allow", "work")
    assert (nothing.returncode, nothing.stderr) == (72, "goexfs: nothing waits in run work: it is kept\n")
