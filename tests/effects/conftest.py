"""What effects act on: a store with a run, a web server that counts, a PostgreSQL of the tests' own."""

import glob
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import goexfs
from goexfs.session import RunStore, Session
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.support.commands import CHECKOUT
from tests.support.users import NOBODY

REACHING = [path for path in (Path(sys.prefix), CHECKOUT) if path.is_relative_to("/tmp")]
"""What a sandbox has to show, so that this interpreter works in it."""


@pytest.fixture
def store(goexfs_home: Path) -> Iterator[RunStore]:
    with goexfs.open_store() as opened:
        yield opened
        report = opened.fsck()
    assert not report.findings, str(report)


@pytest.fixture
def run(store: RunStore, fresh_base: Path) -> Iterator[Session]:
    with store.start(fresh_base) as session:
        yield session


@pytest.fixture
def configured(area: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the user's configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(area / "config"))

    def write(text: str) -> None:
        path = area / "config/goexfs/config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("")
    return write


class Place:
    """A store with a kept run over an empty base; opened anew for every use, as another process would."""

    def __init__(self, area: Path) -> None:
        self.store, self.base = area / "store", area / "base"
        self.base.mkdir(parents=True)
        with self.opened() as store:
            run = store.runs.create(base=os.fsencode(self.base))
            self.run_id = store.runs.update(run.id, state="kept").id

    def opened(self) -> Store:
        return Store.open(self.store)

    def ledger(self, store: Store) -> Ledger:
        return Ledger(store, self.run_id)

    def states(self) -> list[str]:
        with self.opened() as store:
            return [str(effect.state) for effect in self.ledger(store).effects()]


@pytest.fixture
def place(area: Path) -> Iterator[Place]:
    made = Place(area)
    yield made
    with made.opened() as store:
        assert fsck(store).findings == ()


class Counting(http.server.ThreadingHTTPServer):
    """Does what it is asked once per Idempotency-Key, as a payment service does; remembers every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.done: Counter[str] = Counter()
        self.answers: list[int] = []
        """what to answer next, then 200"""
        self.before_answer: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Counting

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, dict(self.headers.items()), body))
        status = self.server.answers.pop(0) if self.server.answers else 200
        key = self.headers.get("Idempotency-Key", "")
        if status == 200 and not self.server.done[key]:
            self.server.done[key] += 1
        if self.server.before_answer is not None:
            self.server.before_answer()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"so be it")

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Counting]:
    server = Counting()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _program(name: str) -> str | None:
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return found[-1] if found else shutil.which(name)


class Postgres:
    """A server on a socket of its own, without a password; ``restart`` with other settings."""

    def __init__(self, area: Path) -> None:
        self.area = area
        self.data = area / "data"
        self._popen: subprocess.Popen[bytes] | None = None
        area.mkdir()
        if os.geteuid() == 0:
            os.chown(area, NOBODY, NOBODY)
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "goexfs", "--no-sync", "-E", "UTF8")

    def _argv(self, name: str, *words: str) -> list[str]:
        program = _program(name)
        assert program is not None
        dropped = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        return [*dropped, program, *words]

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(self._argv(name, *words), cwd=self.area, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *, prepared: int = 20) -> None:
        words = ["-D", str(self.data), "-k", str(self.area), "-c", "listen_addresses=", "-c", "fsync=off",
                 "-c", f"max_prepared_transactions={prepared}", "-c", "shared_buffers=16MB"]  # fmt: skip
        with open(self.area / "log", "ab") as log:
            self._popen = subprocess.Popen(self._argv("postgres", *words), cwd=self.area, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.all("SELECT 1")
                return
            except Exception:
                assert time.monotonic() < deadline and self._popen.poll() is None, (self.area / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        if self._popen is not None:
            self._popen.send_signal(2)
            self._popen.wait(30)
            self._popen = None

    @property
    def address(self) -> str:
        return f"postgresql:///postgres?host={self.area}&user=goexfs"

    def all(self, sql: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.address, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def prepared(self) -> list[str]:
        return [str(gid) for (gid,) in self.all("SELECT gid FROM pg_prepared_xacts ORDER BY gid")]


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="the library psycopg is not installed")
    if _program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    above = Path(tempfile.mkdtemp(prefix="gxpg-"))  # not the tests' area, in which no process may be left after a test
    above.chmod(0o755)
    server = Postgres(above / "pg")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(above)


@pytest.fixture
def postgres(_postgres: Postgres, configured: Callable[[str], None]) -> Postgres:
    """The server with an empty table ``t`` and nothing prepared, known to the user's configuration as ``main``."""
    for gid in _postgres.prepared():
        _postgres.all(f"ROLLBACK PREPARED '{gid}'")
    _postgres.all("DROP TABLE IF EXISTS t")
    _postgres.all("CREATE TABLE t (x text)")
    configured(f'[effects.databases]\nmain = "{_postgres.address}"\n')
    return _postgres
