"""SIGKILL at every step of carrying out and of undoing: nothing twice that has a key, nothing forgotten."""

import os
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from goexfs.effects import commands, execute
from goexfs.effects.compensate import compensate
from goexfs.effects.outcome import Outcome
from snapshots.errors import EffectFailed
from snapshots.storage.effects import Command, Effect, Http, Sql, State, Undo
from tests.effects.conftest import Counting, Place, Postgres
from tests.store.test_merge_killed import die_at

some_or_every = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.long, id="every"), pytest.param(5, id="some")]
)


def shell(script: str) -> Command:
    return Command((b"sh", b"-c", os.fsencode(script)))


class Scene(Place):
    """A run with one effect of every kind."""

    def __init__(self, area: Path, web: Counting, postgres: Postgres | None) -> None:
        area.mkdir()
        super().__init__(area)
        self.log = area / "log"
        self.database = area / "notes.db"
        with sqlite3.connect(self.database) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        with self.opened() as store:
            ledger = self.ledger(store)
            ledger.add(shell(f"echo keyed $GOEXFS_EFFECT_KEY >> {self.log}"), deferred=True, key=f"k{area.name}")
            ledger.add(Http("POST", f"{web.url}/pay", (), b"10"), deferred=True, key=f"h{area.name}")
            ledger.add(Sql(str(self.database), ("INSERT INTO t VALUES ('row')",)), deferred=True)
            if postgres is not None:
                held = ledger.add(Sql("main", (f"INSERT INTO t VALUES ('held {area.name}')",)), deferred=True)
                assert execute.prepare(ledger, held).state is State.PREPARED
                ledger.add(Sql("main", (f"INSERT INTO t VALUES ('done {area.name}')",)), deferred=True)
            ledger.add(shell(f"echo bare >> {self.log}"), deferred=True)
            ledger.add(shell(f"echo last >> {self.log}"), deferred=True, key=f"l{area.name}")

    def go(self) -> None:
        with self.opened() as store:
            execute.run_pending(self.ledger(store), os.fsencode(self.base))

    def lines(self) -> Counter[str]:
        text = self.log.read_text() if self.log.exists() else ""
        return Counter(line.split()[0] for line in text.splitlines())

    def rows(self) -> int:
        connection = sqlite3.connect(self.database)
        try:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            assert tables == ["t"]
            (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
            return int(count)
        finally:
            connection.close()

    def effects(self) -> list[Effect]:
        with self.opened() as store:
            return self.ledger(store).effects()


@some_or_every
def test_carrying_out(area, web, postgres, capsys, stride):
    points = unknown = 0
    for number in range(1, 10_000, stride):
        scene = Scene(area / str(number), web, postgres)
        step = die_at(number, scene.go)
        where = f"killed before step {number}: {step}"
        bare = scene.lines()["bare"]
        try:
            scene.go()
        except EffectFailed as error:
            unknown += 1
            effect = next(effect for effect in scene.effects() if effect.state is State.UNKNOWN)
            assert effect.request == shell(f"echo bare >> {scene.log}"), (where, error)
            assert scene.lines()["bare"] == bare, where  # not tried again
            assert scene.lines()["last"] == 0, where  # what comes after it waits
            with pytest.raises(EffectFailed):
                scene.go()
            with scene.opened() as store:
                ledger = scene.ledger(store)
                ledger.drop(effect.number, "looked at") if bare else ledger.retry(effect.number)
            scene.go()
        assert scene.lines()["bare"] == 1, where
        assert scene.lines()["keyed"] in (1, 2), where  # twice only under one key
        assert web.done[f"h{number}"] == 1, where
        assert scene.rows() == 1, where
        names = sorted(str(x) for (x,) in postgres.all("SELECT x FROM t"))
        assert names == [f"done {number}", f"held {number}"], where
        assert postgres.prepared() == [], where
        postgres.all("DELETE FROM t")
        assert all(effect.state in (State.DONE, State.DROPPED) for effect in scene.effects()), where
        points += 1
        if step is None:
            break
    assert unknown or stride > 1
    with capsys.disabled():
        print(f"\n{points - 1} points of carrying out, {unknown} of them unknown")


def test_a_command_that_outlives_the_one_who_ran_it(area, web):
    """The death comes while the command runs: unknown without a key, tried again with one."""
    for key in ("", "mine"):
        place = Place(area / f"key-{key}")
        log = area / f"log-{key}"
        with place.opened() as store:
            script = f'echo x >> {log}; test "$(wc -l < {log})" != 1 || kill -9 $PPID; sleep 0.2'
            place.ledger(store).add(shell(script), deferred=True, key=key)

        def go(place=place):
            with place.opened() as store:
                execute.run_pending(place.ledger(store), os.fsencode(place.base))

        assert died(go)
        if key:
            go()
            assert (place.states(), log.read_text()) == (["done"], "x\nx\n")
        else:
            with pytest.raises(EffectFailed, match="nobody knows whether effect 1"):
                go()
            assert (place.states(), log.read_text()) == (["unknown"], "x\n")


def died(action) -> bool:
    pid = os.fork()
    if not pid:
        try:
            action()
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("key", ["pay-1", ""])
def test_a_request_whose_sender_dies_before_the_answer(place, web, configured, key):
    with place.opened() as store:
        place.ledger(store).add(Http("POST", web.url, (), b"1"), deferred=True, key=key)

    def go():
        with place.opened() as store:
            execute.run_pending(place.ledger(store), os.fsencode(place.base))

    asker = os.fork()
    if not asker:
        try:
            go()
        finally:
            os._exit(3)

    def kill() -> None:
        web.before_answer = None
        os.kill(asker, signal.SIGKILL)

    web.before_answer = kill
    assert os.waitstatus_to_exitcode(os.waitpid(asker, 0)[1]) == -signal.SIGKILL
    if key:
        go()
        assert place.states() == ["done"]
        assert [request[2]["Idempotency-Key"] for request in web.requests] == ["pay-1", "pay-1"]
    else:
        with pytest.raises(EffectFailed, match="nobody knows"):
            go()
        assert place.states() == ["unknown"]
        assert len(web.requests) == 1
    assert list(web.done.values()) == [1]


def run_undo(effect: Effect) -> Outcome:
    assert isinstance(effect.undo, Command)
    return commands.run(effect.undo.argv, cwd=b"/", env=commands.environment(effect.key))


@some_or_every
def test_undoing(area, capsys, stride):
    points = 0
    for number in range(1, 10_000, stride):
        place = Place(area / str(number))
        log = area / f"log{number}"
        with place.opened() as store:
            ledger = place.ledger(store)
            for name in ("first", "second", "third"):
                effect = ledger.add(
                    shell("true"), deferred=False, undo=shell(f"echo {name} >> {log}"), state=State.RUNNING
                )
                ledger.end(effect.number, State.DONE, "")

        def give_up(place=place):
            with place.opened() as store:
                ledger = place.ledger(store)
                ledger.recover()
                compensate(ledger, ledger.compensable(), run_undo)

        step = die_at(number, give_up)
        give_up()
        where = f"killed before step {number}: {step}"
        assert list(dict.fromkeys(log.read_text().split())) == ["third", "second", "first"], where
        assert max(Counter(log.read_text().split()).values()) <= 2, where
        with place.opened() as store:
            assert {effect.undo_state for effect in place.ledger(store).effects()} == {Undo.DONE}, where
            assert not place.ledger(store).has_open(), where
        points += 1
        if step is None:
            break
    with capsys.disabled():
        print(f"\n{points - 1} points of undoing")


@some_or_every
def test_preparing(area, postgres, capsys, stride):
    """A database never holds a transaction that the ledger does not know."""
    points = 0
    for number in range(1, 10_000, stride):
        place = Place(area / str(number))

        def prepare(place=place):
            with place.opened() as store:
                ledger = place.ledger(store)
                execute.prepare(ledger, ledger.add(Sql("main", ("INSERT INTO t VALUES ('x')",)), deferred=True))

        step = die_at(number, prepare)
        where = f"killed before step {number}: {step}"
        with place.opened() as store:
            ledger = place.ledger(store)
            ledger.recover()
            known = {effect.gid for effect in ledger.effects()}
            assert set(postgres.prepared()) <= known, where
            execute.withdraw_all(ledger, "given up")
            assert not ledger.has_open(), where
        assert postgres.prepared() == [], where
        assert postgres.all("SELECT * FROM t") == [], where
        points += 1
        if step is None:
            break
    with capsys.disabled():
        print(f"\n{points - 1} points of preparing")
