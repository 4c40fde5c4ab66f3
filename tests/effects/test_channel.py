"""The agent's channel from inside the sandbox: what it can do, everything it must not, and what hostile input does.

Whatever a program in a run tries on the channel, the run has no verdict, no other run is touched, and files go on being
served.
"""

import json
import os
import sys
from typing import Any

import pytest

import goexfs
from goexfs.session import Session
from goexfs.session.channel import MOST_BYTES, Asked, ask
from snapshots.errors import EffectError
from snapshots.storage.effects import Command, Http
from tests.effects.conftest import REACHING
from tests.support.commands import CHECKOUT
from tests.support.users import OrdinaryUser


def inside(run: Session, script: str, *, sandbox: bool = True) -> tuple[int, str, str]:
    """Run Python in the run, where this checkout can be imported; status, stdout, stderr."""
    env = {name: value for name, value in os.environ.items() if name != "GOEXFS_HOME"}
    done = run.exec(
        [sys.executable, "-c", script], cwd=run.base, env={**env, "PYTHONPATH": str(CHECKOUT)}, capture=True,
        confinement=goexfs.Confinement.of(ro=REACHING), sandbox=sandbox, timeout=100,
    )  # fmt: skip
    assert done.stdout is not None and done.stderr is not None
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def goexfs_inside(run: Session, *words: str, sandbox: bool = True) -> tuple[int, str, str]:
    script = f"import sys; sys.argv = ['goexfs', *{words!r}]; from goexfs.cli.main import main; main()"
    return inside(run, script, sandbox=sandbox)


@pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "no sandbox"])
def test_everything_it_is_for(run, sandbox):
    program = """
import json, os, subprocess, sys
def go(*words):
    text = f"import sys; sys.argv = ['goexfs', *{words!r}]; from goexfs.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    print(json.dumps([words[0], done.returncode, done.stdout, done.stderr]))
open("made", "w").write("one")
go("snapshot", "begin", "-m", "so far")
open("made", "w").write("two")
go("effect", "defer", "--key", "k", "--note", "why", "--", "echo", "later")
go("effect", "do", "--undo", "rm -f done", "--", "sh", "-c", "echo x > done; exit 3")
go("diff", "--name-status")
go("snapshots", "--json")
go("effects", "--json")
go("rejected")
go("rewind", "@begin")
print(json.dumps(["files", sorted(os.listdir(".")), open("made").read()]))
"""
    status, out, err = inside(run, program, sandbox=sandbox)
    assert status == 0, err
    said = {line[0]: line[1:] for line in map(json.loads, out.splitlines())}
    assert said["snapshot"][:2] == [0, "@begin\n"]
    assert said["diff"][:2] == [0, "A\tdone\nA\tmade\n"]
    assert [each["name"] for each in json.loads(said["snapshots"][1])["snapshots"]] == ["begin"]
    effects = json.loads(said["effects"][1])["effects"]
    assert [(e["state"], e["command"]) for e in effects] == [
        ("planned", ["echo", "later"]), ("failed", ["sh", "-c", "echo x > done; exit 3"])
    ]  # fmt: skip
    assert said["rejected"][0] == 0
    assert said["rewind"][0] == 0, said
    assert "done" not in said["files"][0]
    assert said["files"][1] == "one"
    assert [(str(e.state), str(e.undo_state)) for e in run.effects.list()] == [("dropped", "none"), ("failed", "done")]


def test_what_is_the_users(run, store, fresh_base):
    """Every other command is refused in one line, and nothing has happened."""
    other = store.start(fresh_base, on_exit="keep")
    try:
        for words in (
            ["merge", "@"], ["discard", run.id], ["discard", other.id], ["umount", run.id], ["undo"], ["ls"],
            ["diff", other.id], ["run", "--", "true"], ["mount", ".", "/tmp"], ["fsck", "--repair"],
        ):  # fmt: skip
            status, out, err = goexfs_inside(run, *words)
            if words[0] == "diff":  # a path, to whoever is inside
                assert (status, out) == (0, "")
                continue
            assert status == 101, (words, out, err)
            assert err.count("\n") == 1, err
            assert err.startswith(f"goexfs: {words[0]} is the user's")
        assert goexfs_inside(run, "effect", "run", run.id)[0] == 2  # no such command
        assert goexfs_inside(run, "diff", "@one")[0] == 2, "a point, which is no path either"
        assert run.state == other.state == "active"
    finally:
        other.discard(forget=True)


PROBE = """
import json, os, socket, sys
def say(data):
    s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(os.environ["GOEXFS_CHANNEL"])
    s.sendall(data); out = b""
    while piece := s.recv(65536): out += piece
    return out.decode()
"""


def test_verbs_of_the_control_socket_are_not_there(run):
    questions = [
        {"verb": verb} for verb in ("ping", "status", "seal", "stop", "attend", "merge", "discard", "policy", "")
    ]
    questions += [{"verb": "effects", "run": "other"}, {"verb": "snapshot", "name": "x", "run_id": "y"}]
    questions.append({"verb": "begin", "request": {"type": "call", "function": "os:getcwd", "arguments": "[[], {}]"}})
    questions.append({"verb": "defer", "request": {"type": "call", "function": "os:getcwd", "arguments": "[[], {}]"}})
    program = PROBE + f"for q in {questions!r}: print(say(json.dumps(q).encode() + b'\\n'), end='')"
    status, out, err = inside(run, program)
    assert status == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == len(questions)
    assert all(answer["fault"]["kind"] in ("ServerError", "EffectError") for answer in answers), answers
    assert run.status().run == run.id
    assert run.effects.list() == []


def test_nothing_else_is_there(run, store, fresh_base):
    """Neither the store nor the control socket, nor another run's channel; and no peer but the run's own user."""
    other = store.start(fresh_base, on_exit="keep")
    try:
        directory = os.fspath(store.store.runs.directory(other.id))
        program = (
            "import glob, os\n"
            f"print(os.path.exists({directory!r}), os.path.exists({directory!r} + '/channel'))\n"
            "print(glob.glob('/dev/goexfs'), os.listdir('/dev').count('goexfs'))\n"
            "try: os.rename('/dev/goexfs', '/dev/other')\n"
            "except OSError as error: print(error.errno)\n"
        )
        status, out, err = inside(run, program)
        assert (status, out.splitlines()[:2]) == (0, ["False False", "['/dev/goexfs'] 1"]), err
    finally:
        other.discard(forget=True)


def test_paths_that_leave(run):
    program = PROBE + """
for path in ("/etc", "../..", "a/../../b", "x\\0y"):
    import base64
    p = base64.b64encode(path.encode()).decode()
    print(say(json.dumps({"verb": "diff", "paths": [p]}).encode() + b"\\n"), end="")
    print(say(json.dumps({"verb": "rewind", "name": "s", "paths": [p]}).encode() + b"\\n"), end="")
    argv = [base64.b64encode(b"true").decode()]
    question = {"verb": "defer", "request": {"type": "command", "argv": argv, "cwd": p}}
    print(say(json.dumps(question).encode() + b"\\n"), end="")
"""
    status, out, err = inside(run, program)
    assert status == 0, err
    assert [json.loads(line)["fault"]["kind"] for line in out.splitlines()] == ["EffectError"] * 12
    assert run.effects.list() == []


def test_numbers_and_states_that_are_not_the_runs_to_choose(run):
    """It can neither settle what is deferred, nor claim an undo that it did not begin, nor allow what it asked."""
    effect = run.effects.defer(["true"])
    program = PROBE + f"""
for q in ({{"verb": "end", "number": {effect.number}, "succeeded": True}},
          {{"verb": "undone", "number": 1, "succeeded": True}},
          {{"verb": "undo", "number": 1}}, {{"verb": "end", "number": -5}}, {{"verb": "end", "number": 10**30}},
          {{"verb": "begin", "request": {{"type": "command", "argv": ["dHJ1ZQ=="]}}, "irreversible": True}},
          {{"verb": "begin", "request": {{"type": "command", "argv": ["dHJ1ZQ=="]}}}}):
    print(say(json.dumps(q).encode() + b"\\n"), end="")
"""
    status, out, err = inside(run, program)
    assert status == 0, err
    assert all("fault" in json.loads(line) for line in out.splitlines()), out
    assert [str(each.state) for each in run.effects.list()] == ["planned"]


INPUTS = [
    b"", b"\n", b"{", b"null\n", b"[]\n", b"\xff\xfe\n", b'{"verb": 5}\n', b'{"verb": "effects"', b"[" * 100000 + b"\n",
    b'{"verb": "diff", "paths": "x"}\n', b'{"verb": "snapshot", "name": "\\ud800"}\n', b"\0" * 1000 + b"\n",
    b'{"verb": "snapshot", "name": "' + b"a" * 5000 + b'"}\n', b'{"verb": "snapshot", "name": "a/b"}\n',
    b'{"verb": "rewind", "name": "none"}\n',
    b'{"verb": "defer", "request": {"type": "http", "method": "G E", "url": "x"}}\n',
    b'{"verb": "defer", "request": {"type": "http", "method": "GET", "url": "file:///etc/passwd"}}\n',
    b'{"verb": "defer", "request": {"type": "http", "method": "GET", "url": "http://x", "headers": [["A\\nB", ""]]}}\n',
    b'{"verb": "defer", "request": {"type": "command", "argv": []}}\n',
]  # fmt: skip


def test_hostile_input(run):
    """Huge, cut off, silent, not UTF-8, not JSON, too deep, of the wrong type, a thousand at once: files go on."""
    program = PROBE + f"""
import time
def send(data, half_close=True):
    s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(os.environ["GOEXFS_CHANNEL"])
    try: s.sendall(data)
    except OSError: pass
    if half_close:
        try: s.shutdown(socket.SHUT_WR)
        except OSError: pass
    return s
def answer(s):
    out = b""
    try:
        while piece := s.recv(65536): out += piece
    except OSError: pass
    s.close()
    return out
inputs = {INPUTS!r} + [b"x" * {MOST_BYTES + 100000}]
for data in inputs:
    print(answer(send(data)).count(b"fault"), end=" ")
print()
many = []
for _ in range(300):
    try: many.append(send(b'{{"verb": "eff', half_close=False))
    except OSError as error: break
open("while", "w").write("served")
for s in many: s.close()
print(len(many) > 50, open("while").read(), json.loads(say(b'{{"verb": "effects"}}\\n')))
"""
    status, out, err = inside(run, program)
    assert status == 0, err
    first, second = out.splitlines()
    assert second == "True served {}", out
    assert first.split()[0] == "0"
    assert run.status().run == run.id
    assert run.effects.list() == []
    log = (run._store.runs.directory(run.id) / "server.log").read_text()
    assert "Traceback" not in log, log


def test_limits(place, monkeypatch):
    """There are at most so many effects, of so many bytes; the ledger says so and nothing is recorded."""
    from snapshots.storage import ledger

    monkeypatch.setattr(ledger, "MOST_EFFECTS", 3)
    monkeypatch.setattr(ledger, "MOST_BYTES", 2 << 20)
    with place.opened() as store:
        effects = place.ledger(store)
        effects.add(Http("POST", "http://x", (), b"x" * (1 << 20)), deferred=True)
        with pytest.raises(EffectError, match="too many effects"):
            effects.add(Http("POST", "http://x", (), b"x" * (1 << 20)), deferred=True)
        for _ in range(2):
            effects.add(Command((b"true",)), deferred=True)
        with pytest.raises(EffectError, match="too many effects"):
            effects.add(Command((b"true",)), deferred=True)
        assert len(effects.effects()) == 3


def test_another_user_is_not_answered(run, user: OrdinaryUser):
    """Should the socket become reachable by others, they are not heard."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    path = run._store.runs.directory(run.id) / "channel"
    for above in (path.parent, path.parent.parent, run._store.path):
        above.chmod(0o711)
    path.chmod(0o777)
    program = (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect({os.fspath(path)!r});"
        "s.sendall(b'{\"verb\": \"effects\"}\\n'); print(s.recv(100))"
    )
    done = user.run([sys.executable, "-c", program])
    for above in (path.parent, path.parent.parent, run._store.path):
        above.chmod(0o700)
    assert done.stdout in ("", "b''\n"), done.stdout  # hung up, before or after the question


def test_as_an_ordinary_user(user: OrdinaryUser):
    program = f"reaching = {[str(path) for path in REACHING]!r}" + """
import os, sys, goexfs
base = os.environ["HOME"] + "/base"; os.makedirs(base)
text = "from goexfs.session.channel import *; from snapshots.storage.effects import Command;"
text += "print(os.getuid() != 0, Channel().defer(Command((b'true',))).state, len(Channel().effects()))"
with goexfs.open_store() as store, store.start(base) as run:
    env = {name: value for name, value in os.environ.items() if name != "GOEXFS_HOME"}
    done = run.exec([sys.executable, "-c", text], env=env, capture=True, confinement=goexfs.Confinement.of(ro=reaching))
    print(done.stdout.decode(), done.stderr.decode(), [str(e.state) for e in run.effects.list()])
"""
    done = user.run([sys.executable, "-c", program])
    assert done.stdout.split() == ["True", "planned", "1", "['planned']"], done.stdout + done.stderr


def test_irreversible_without_anybody_to_ask(run):
    status, _out, err = goexfs_inside(run, "effect", "do", "--irreversible", "--", "touch", "done")
    assert status == 98
    assert "nobody is there to ask" in err
    assert not (run.mountpoint / "done").exists()
    assert run.effects.list() == []


@pytest.mark.parametrize("allowed", [True, False])
def test_irreversible_with_somebody_to_ask(run, allowed):
    asked: list[Any] = []

    def answer(effect):
        asked.append((effect.request, effect.note))
        return allowed

    words = ["goexfs", "effect", "do", "--irreversible", "--note", "why", "--", "touch", "done"]
    script = f"import sys; sys.argv = {words!r}; "
    env = {name: value for name, value in os.environ.items() if name != "GOEXFS_HOME"}
    done = run.exec(
        [sys.executable, "-c", script + "from goexfs.cli.main import main; main()"], cwd=run.base, capture=True,
        env={**env, "PYTHONPATH": str(CHECKOUT)}, confinement=goexfs.Confinement.of(ro=REACHING), ask=answer,
    )  # fmt: skip
    assert asked == [(Command((b"touch", b"done")), "why")], done.stderr
    assert done.returncode == (0 if allowed else 98)
    assert (run.mountpoint / "done").exists() == allowed
    assert [str(effect.state) for effect in run.effects.list()] == ["done" if allowed else "refused"]


def test_a_run_does_not_read_the_configuration(run, configured, store, fresh_base, monkeypatch):
    configured('[effects.databases]\nmain = "postgresql://secret@db/x"\n')
    place = os.environ["XDG_CONFIG_HOME"] + "/goexfs"
    status, out, _ = inside(run, f"import os; print(os.path.exists({place!r} + '/config.toml'))")
    assert (status, out) == (0, "False\n")


def test_the_client_outside_says_so(monkeypatch):
    monkeypatch.delenv("GOEXFS_CHANNEL", raising=False)
    with pytest.raises(Exception, match="not inside a run"):
        ask(Asked("effects"))
