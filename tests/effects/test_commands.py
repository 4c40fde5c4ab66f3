"""The commands as a user types them: review, merge, discard and undo of a run with effects."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Terminal, environment
from tests.support.commands import CHECKOUT, Goexfs

INSIDE = f'g() {{ PYTHONPATH={CHECKOUT} {sys.executable} -m goexfs "$@"; }}; '


class User:
    """Somebody in a base, with a store."""

    def __init__(self, area: Path, base: Path) -> None:
        self.area, self.base = area, base
        self.log = area / "log"
        self.goexfs = Goexfs(area / "store")

    def __call__(self, *words: str, status: int | None = 0, **options) -> str:
        done = self.goexfs(*words, status=status, cwd=self.base, **options)
        return (done.stdout + done.stderr).decode()

    def run(self, script: str) -> str:
        self("run", "--keep", "--", "sh", "-ec", INSIDE + script)
        return str(self.goexfs.json("ls")["runs"][-1]["id"])

    def said(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def states(self, run: str) -> list[str]:
        return [each["state"] for each in self.goexfs.json("effects", run)["effects"]]


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.fixture
def you(area: Path, fresh_base: Path) -> User:
    return User(area, fresh_base)


def test_review_and_merge(you):
    run = you.run(
        f"echo new > made; g effect defer --note 'tell all' -- sh -c 'cat made >> {you.log}'; "
        f"g effect defer --key k -- sh -c 'echo $GOEXFS_EFFECT_KEY >> {you.log}'; g effect defer -- false"
    )
    listed = you("effects", run)
    assert "planned    sh -c 'cat made >>" in listed
    assert "note: tell all" in listed
    assert "3 effects" in you("diff", run, "--name-status")
    assert "say --effects run" in you("merge", run, status=99)
    assert not (you.base / "made").exists()
    edited = json.dumps({"command": ["sh", "-c", f"echo edited >> {you.log}"]})
    you("effect", "edit", run, "1", "--file", "-", input=edited.encode())
    out = you("merge", run, "--effects", "run", status=100)
    assert "effect 1 done" in out
    assert "effect 3 of run" in out
    assert (you.base / "made").read_text() == "new\n"
    assert you.said() == ["edited", "k"]
    assert you.states(run) == ["done", "done", "failed"]
    you("effect", "run", run, status=100)
    you("effect", "drop", run, "3")
    assert you.states(run) == ["done", "done", "dropped"]
    assert "no run has effects" in you("effects")
    assert "exit status 1" in you("effect", "show", run, "3")


def test_skipped_and_done_later(you):
    run = you.run(f"touch made; g effect defer -- sh -c 'echo done >> {you.log}'")
    you("merge", run, "--effects", "skip")
    assert (you.said(), you.states(run)) == ([], ["planned"])
    assert run in you("effects")
    you("gc")
    you("effect", "run", run)
    assert (you.said(), you.states(run)) == (["done"], ["done"])
    you("fsck")


def test_a_part_leaves_effects_pending(you):
    run = you.run(f"touch one two; g effect defer -- sh -c 'echo done >> {you.log}'")
    assert "stay pending" in you("merge", run, "one")
    assert you.states(run) == ["planned"]
    assert f"not in the fork: 1 pending effect of {run}" in you("fork", run, "branch")
    assert you.states("branch") == []
    you("discard", "branch")
    assert you.states(run) == ["planned"], "what becomes of a fork is nothing to its parent's effects"
    you("merge", run, "--effects", "run")
    assert you.said() == ["done"]


def test_discard_and_undo(you):
    """Compensations run in a sandbox: what they write outside goes nowhere, and they see the run."""
    script = "echo here > made; g effect do --undo 'cat made' -- true; g effect do --undo 'false' -- true"
    first = you.run(script)
    out = you("discard", first, status=100)
    assert "1 of 2 effects" in out
    assert you.goexfs.json("show", first)["state"] == "kept"
    you("discard", first, "--compensate", "skip")
    effects = you.goexfs.json("effects", first)["effects"]
    assert [each["undo_state"] for each in effects] == ["done", "failed"]
    assert effects[0]["attempts"][-1]["detail"] == "here"
    second = you.run(f"echo new > made2; g effect do --undo 'echo undone >> {you.log}' -- true")
    you("merge", second)
    out = you("undo", "--compensate", "outside")
    assert "effect 1 undone" in out
    assert you.said() == ["undone"]
    assert not (you.base / "made2").exists()


def test_a_run_that_only_has_effects_is_not_thrown_away(you):
    done = you("run", "--", "sh", "-ec", INSIDE + "g effect defer -- true")
    assert "kept" in done
    assert "1 effect" in done


def test_run_discard_undoes(you):
    out = you("run", "--discard", "--rw", str(you.area), "--", "sh", "-ec",
              INSIDE + f"g effect do --undo 'echo undone >> {you.log}' -- sh -c 'echo did >> {you.log}'")  # fmt: skip
    assert out.count("undone") == 0
    assert you.said() == ["did", "undone"]
    assert you.goexfs.json("ls", "--all")["runs"] == []


def test_a_session_that_dies_leaves_effects_to_decide_about(you):
    """The run was to leave nothing: what it recorded is not thrown away with it."""
    script = INSIDE + "g effect defer -- true; touch ready; sleep 60"
    popen = you.goexfs.start("run", "--name", "dying", "--discard", "--", "sh", "-ec", script, cwd=you.base)
    wait_for(lambda: you.goexfs("effects", "dying", status=None).stdout)
    popen.kill()
    popen.communicate()
    wait_for(lambda: you.goexfs.json("show", "dying")["state"] == "kept")
    assert you.states("dying") == ["planned"]
    you("discard", "dying")


def wait_for(true) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_canary_does_not_leave(you, web):
    """What carries a fake secret is not sent, and the merge says so."""
    out = you("run", "--keep", "--canary", "secret.txt", "--", "sh", "-ec",
              INSIDE + f"g effect defer --http POST {web.url} --data @secret.txt; rm -f x")  # fmt: skip
    assert "1 effect" in out
    out = you("merge", "@", "--effects", "run", status=None)
    assert "canary" in out
    assert web.requests == []


def test_http_and_sql_and_documents(you, web, tmp_path):
    notes = you.area / "notes.db"
    with sqlite3.connect(notes) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    (you.base / "body.json").write_bytes(b'{"amount": 1}\xff')
    document = [
        {"http": {"method": "put", "url": f"{web.url}/doc", "headers": {"X-A": ["1", "2"]}, "body": "é"}},
        {"sql": {"database": str(notes), "statements": ["INSERT INTO t VALUES (2)"]}, "note": "second"},
    ]
    (you.base / "effects.json").write_text(json.dumps(document))
    config = you.area / "config/goexfs"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(f'[effects.http."{web.url}"]\nAuthorization = "Bearer ${{TOKEN_X}}"\n')
    run = you.run(
        f"g effect defer --http POST {web.url}/pay -H 'Content-Type: application/json' --data @body.json --key pay;"
        f"g effect defer --file effects.json; echo changed > body.json;"
        f"touch own.db; ! g effect sql --db own.db 'SELECT 1';"
        f"! g effect sql --db postgresql://x/y 'SELECT 1'; ! g effect sql --db nowhere 'SELECT 1'"
    )
    env = {**you.goexfs.environ, "XDG_CONFIG_HOME": str(config.parent), "TOKEN_X": "s3cret"}
    out = you("merge", run, "--effects", "run", env=env)
    pay, put = web.requests
    assert (pay[0], pay[1], pay[3]) == ("POST", "/pay", b'{"amount": 1}\xff')
    assert pay[2]["Idempotency-Key"] == "pay"
    assert pay[2]["Authorization"] == "Bearer s3cret"
    assert (put[0], put[1], put[3].decode()) == ("PUT", "/doc", "é")
    assert "s3cret" not in out + you("effects", run) + json.dumps(you.goexfs.json("effects", run))
    connection = sqlite3.connect(notes)
    assert connection.execute("SELECT x FROM t").fetchall() == [(2,)]
    connection.close()


def test_an_sqlite_file_in_the_workspace_needs_nothing(you):
    """What docs/effects.md shows."""
    insert = "import sqlite3; c = sqlite3.connect('app.db'); c.execute('INSERT INTO t VALUES (2)'); c.commit()"
    make = "import sqlite3; c = sqlite3.connect('app.db'); c.execute('CREATE TABLE t (x)'); c.commit()"
    subprocess.run([sys.executable, "-c", make], cwd=you.base, check=True)
    before = (you.base / "app.db").read_bytes()
    run = you.run(f'{sys.executable} -c "{insert}"')
    assert (you.base / "app.db").read_bytes() == before
    you("discard", run)
    assert (you.base / "app.db").read_bytes() == before
    run = you.run(f'{sys.executable} -c "{insert}"')
    you("merge", run)
    connection = sqlite3.connect(you.base / "app.db")
    assert connection.execute("SELECT x FROM t").fetchall() == [(2,)]
    connection.close()
    you("undo")
    assert (you.base / "app.db").read_bytes() == before


def test_retries_and_answers(place, web, configured, monkeypatch):
    """A passing failure is tried again under the same key, and only with one; a redirect is no success."""
    from goexfs.effects import execute
    from snapshots.errors import EffectFailed
    from snapshots.storage.effects import Http

    monkeypatch.setattr("goexfs.effects.attempts.PAUSE_SECONDS", 0.01)

    def go():
        with place.opened() as store:
            execute.run_pending(place.ledger(store), os.fsencode(place.base))

    def add(**about):
        with place.opened() as store:
            place.ledger(store).add(Http("POST", web.url + "/x", (), b""), deferred=True, **about)

    web.answers = [503, 503]
    add(key="again")
    go()
    assert len(web.requests) == 3
    for answer in (503, 404, 302):
        web.answers = [answer]
        add()
        with pytest.raises(EffectFailed, match=str(answer)):
            go()
        with place.opened() as store:
            place.ledger(store).drop(len(place.states()), "enough")
    assert len(web.requests) == 6


def test_the_terminal_asks_at_a_merge(you, terminals):
    run = you.run(f"touch made; g effect defer --irreversible -- sh -c 'echo 1 >> {you.log}'; g effect defer -- false")
    words = [sys.executable, "-m", "goexfs", "merge", run]
    env = environment(GOEXFS_HOME=str(you.goexfs.home))
    first = Terminal(words, you.base, env)
    terminals.append(first)
    first.expect(r"! +1 .*planned")
    first.expect("ancel: ")
    first.type("c\r")
    assert first.wait() == 99
    second = Terminal(words, you.base, env)
    terminals.append(second)
    second.expect("ancel: ")
    second.type("d 2\r")
    second.expect("ancel: ")
    second.type("what\r")
    second.expect("r, s, c")
    second.type("r\r")
    assert second.wait() == 0
    assert you.said() == ["1"]
    assert you.states(run) == ["done", "dropped"]


def test_the_terminal_asks_about_what_cannot_be_undone(you, terminals):
    env = environment(GOEXFS_HOME=str(you.goexfs.home))
    script = INSIDE + "g effect do --irreversible -- echo BOOM; echo status $?; read x; echo got $x"
    words = you.goexfs.argv("run", "--", "sh", "-c", script)
    for answer, status in (("yes", 0), ("no", 98)):
        terminal = Terminal(words, you.base, env)
        terminals.append(terminal)
        terminal.expect("Type yes")
        terminal.type(f"{answer}\r")
        terminal.expect(f"status {status}")
        terminal.type("hello\r")
        terminal.expect("got hello")
        assert ("\nBOOM" in terminal.shown) == (answer == "yes")
        terminal.wait()


WRONG = (
    (["effect", "defer", "--", "true"], 101), (["effect", "do"], 101), (["effect", "show", "@", "1"], 98),
    (["effect", "run", "nosuch"], 67), (["effect", "edit", "@", "1", "--file", "none"], 98),
    (["effect", "drop", "@"], 2),
    (["effect", "retry", "@", "0"], 2), (["effects", "nosuch"], 67), (["merge", "@", "--effects", "maybe"], 2),
)  # fmt: skip


def test_wrong_words(you):
    """One run for all of them: none changes it."""
    you.run("touch made")
    for words, status in WRONG:
        assert "Traceback" not in you(*words, status=status), words


def test_names_chosen_by_an_agent_are_harmless(you):
    run = you.run("g effect defer --note \"$(printf 'a\\033[31mb')\" -- \"$(printf 'x\\033]0;t\\007')\"")
    for words in (["effects", run], ["effect", "show", run, "1"], ["diff", run], ["merge", run]):
        assert "\033" not in you(*words, status=None)
