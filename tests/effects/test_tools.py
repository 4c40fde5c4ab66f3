"""Effects from Python: the decorator for tool functions, and the verbs of a run."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import goexfs
from snapshots.errors import EffectError, EffectFailed, EffectsPending
from snapshots.storage.effects import State, Undo
from tests.effects.conftest import REACHING
from tests.support.commands import CHECKOUT

TOOLS = """
import os, goexfs
def unpublish(name, *, where="log"):
    with open(os.environ["OUTSIDE"], "a") as file: file.write(f"unpublished {name} {where}\\n")
async def later(name, *, where="log"):
    unpublish(name, where=where)
@goexfs.compensate_with(unpublish)
def publish(name, *, where="log"):
    with open(os.environ["OUTSIDE"], "a") as file: file.write(f"published {name}\\n")
    if name == "bad": raise ValueError(name)
    return name.upper()
@goexfs.compensate_with(later)
async def publish_soon(name, *, where="log"):
    return publish.__wrapped__(name, where=where)
class Tool:
    def method(self): pass
"""


@pytest.fixture
def tools(area: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of tool functions, as a framework would import it; they write to ``log``."""
    (area / "modules").mkdir()
    (area / "modules/gx_tools.py").write_text(TOOLS)
    monkeypatch.syspath_prepend(str(area / "modules"))
    monkeypatch.setenv("OUTSIDE", str(area / "log"))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.delitem(sys.modules, "gx_tools", raising=False)
    return __import__("gx_tools")


def said(area: Path) -> list[str]:
    log = area / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_a_tool_function_is_undone_with_a_discard(area, tools, run):
    with run.effects:
        assert tools.publish("a", where="here") == "A"
        assert asyncio.run(tools.publish_soon("b")) == "B"
        with pytest.raises(ValueError, match="bad"):
            tools.publish("bad")
    states = [(str(each.state), str(each.undo_state), each.note) for each in run.effects.list()]
    assert states == [("done", "kept", "publish"), ("done", "kept", "publish_soon"), ("failed", "kept", "publish")]
    run.discard()
    assert said(area) == [
        "published a", "published b", "published bad", "unpublished bad log", "unpublished b log", "unpublished a here"
    ]  # fmt: skip


def test_outside_of_any_run_nothing_is_recorded(area, tools, run):
    assert tools.publish("a") == "A"
    assert run.effects.list() == []


def test_in_the_run_it_is_recorded_on_the_channel(area, tools, run):
    """An agent's framework inside the sandbox: its compensation runs in a sandbox, too."""
    (run.mountpoint / "gx_tools.py").write_text(TOOLS)
    env = {name: value for name, value in os.environ.items() if name != "GOEXFS_HOME"}
    env |= {"PYTHONPATH": str(CHECKOUT), "OUTSIDE": str(area / "log"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run.exec(
        [sys.executable, "-c", "import gx_tools; gx_tools.publish('x')"], cwd=run.base, env={**env, "OUTSIDE": "out"},
        capture=True, confinement=goexfs.Confinement.of(ro=REACHING),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (effect,) = run.effects.list()
    assert (effect.state, effect.undo_state, effect.trusted) == (State.DONE, Undo.KEPT, False)
    assert (run.mountpoint / "out").read_text() == "published x\n"
    run.discard()
    assert run.effects.get(1).undo_state is Undo.DONE
    assert said(area) == []  # the sandbox shows no such place outside


def test_a_compensation_is_confined_as_the_run_was(area, run):
    """Neither the network nor a path that the run had not, and what it had."""
    opened = area / "opened"
    opened.mkdir()
    undo = f"cat /proc/net/dev > {opened}/net; cat made > {opened}/made; echo $GOEXFS_EFFECT_KEY > {opened}/key; "
    words = ["goexfs", "effect", "do", "--undo", undo + f"echo x > {area}/leak || true", "--", "true"]
    script = f"import sys; sys.argv = {words!r}; from goexfs.cli.main import main; main()"
    (run.mountpoint / "made").write_text("in the run")
    env = {name: value for name, value in os.environ.items() if name != "GOEXFS_HOME"} | {"PYTHONPATH": str(CHECKOUT)}
    wishes = goexfs.Confinement.of(rw=[opened], ro=REACHING, net="off")
    done = run.exec([sys.executable, "-c", script], cwd=run.base, env=env, capture=True, confinement=wishes)
    assert done.returncode == 0, done.stderr
    run.discard()
    assert (opened / "made").read_text() == "in the run"
    assert (opened / "key").read_text() == f"goexfs-{run.id}-1\n"
    assert (opened / "net").read_text().count(":") == 1  # the loopback device
    assert not (area / "leak").exists()


@pytest.mark.parametrize("bad", ["closure", "lambda", "method", "main", "tuple", "bytes", "nan", "keys"])
def test_what_cannot_be_recorded_is_refused_before_it_is_done(area, tools, run, bad):
    done = []

    def closure(*_):
        pass

    undo = {"closure": closure, "lambda": lambda *_: None, "method": tools.Tool().method}.get(bad, tools.unpublish)
    argument = {"tuple": (1,), "bytes": b"x", "nan": float("nan"), "keys": {1: 2}}.get(bad, "x")
    if bad == "main":
        undo = lambda *_: None  # noqa: E731
        undo.__module__, undo.__qualname__ = "__main__", "undo"
    tool = goexfs.compensate_with(undo)(done.append)
    with run.effects, pytest.raises(EffectError):
        tool(argument)
    assert done == []
    assert run.effects.list() == []


def test_defer_and_run(area, tools, run):
    run.effects.defer(["sh", "-c", f"echo command >> {area}/log"], key="k", note="n")
    run.effects.defer(goexfs.call(tools.unpublish, "called"))
    with pytest.raises(EffectsPending, match="--effects run"):
        run.merge()
    assert run.state == "kept"
    run.merge(effects="run")
    assert said(area) == ["command", "unpublished called log"]
    assert [str(effect.state) for effect in run.effects.list()] == ["done", "done"]


def test_do_and_the_key(area, run):
    once = ["sh", "-c", f"echo did >> {area}/log"]
    undo = ["sh", "-c", f"echo undid >> {area}/log"]
    assert run.effects.do(once, undo=undo, key="k").state is State.DONE
    assert run.effects.do(once, undo=undo, key="k").number == 1
    assert said(area) == ["did"]
    with pytest.raises(EffectError, match="has the key 'k' already"):
        run.effects.do(["true"], undo=undo, key="k")
    with pytest.raises(EffectError, match="irreversible"):
        run.effects.do(once)
    with pytest.raises(EffectFailed):
        run.effects.do(["false"], undo=["true"])
    run.discard()
    assert said(area) == ["did", "undid"]


def test_a_compensation_that_fails_keeps_the_run(area, run, monkeypatch):
    monkeypatch.setattr("goexfs.effects.attempts.PAUSE_SECONDS", 0.01)
    gate = area / "gate"
    run.effects.do(["true"], undo=["sh", "-c", f"echo tried >> {area}/log; test -e {gate}"])
    run.effects.do(["true"], undo=["sh", "-c", f"echo other >> {area}/log"])
    with pytest.raises(EffectFailed, match="1 of 2 effects"):
        run.discard()
    assert run.state == "kept"
    assert said(area) == ["other", "tried", "tried", "tried"]
    assert [len(effect.attempts) for effect in run.effects.list()] == [4, 2]
    gate.touch()
    run.discard()
    assert (run.state, said(area)) == ("discarded", ["other", "tried", "tried", "tried", "tried"])


def test_what_was_not_compensated_outlives_a_run_that_is_to_be_forgotten(area, run, store):
    run.effects.do(["true"], undo=["false"])
    run.keep()
    with pytest.raises(EffectFailed):
        run.discard(forget=True)
    run.discard(forget=True, undo="skip")
    (effect,) = store.run(run.id).effects.list()
    assert effect.undo_state is Undo.FAILED
    store.gc()
    assert store.run(run.id).effects.list() == [effect]


def test_a_rewind_undoes_what_was_done_since(area, run):
    run.effects.do(["true"], undo=["sh", "-c", f"echo before >> {area}/log"])
    run.snapshot("here")
    run.effects.do(["true"], undo=["sh", "-c", f"echo first >> {area}/log"])
    (run.mountpoint / "made").write_text("x")
    run.effects.do(["true"], undo=["sh", "-c", f"echo second >> {area}/log"])
    run.effects.defer(["true"])
    run.rewind("here", (b"made",))
    assert said(area) == []  # only a path of it
    run.rewind("here")
    assert said(area) == ["second", "first"]
    assert [str(effect.undo_state) for effect in run.effects.list()] == ["kept", "done", "done", "none"]
    assert str(run.effects.list()[3].state) == "dropped"


def test_an_agent_that_dies_in_the_middle(area, run):
    """Begun and never ended: unknown once the run is over, and undone with it."""
    from goexfs.effects import documents

    with run._store.__class__.open(run._store.path) as other:
        from snapshots.storage.ledger import Ledger

        Ledger(other, run.id).add(
            documents.shell("true"), deferred=False, undo=documents.shell(f"echo undid >> {area}/log"),
            state=State.RUNNING, trusted=True,
        )  # fmt: skip
    run.keep()
    assert [str(effect.state) for effect in run.effects._ledger.recover()] == ["unknown"]
    run.discard()
    assert said(area) == ["undid"]
