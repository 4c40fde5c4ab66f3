"""Opening a store: new, existing, and everything that can be wrong with the place."""

import os
import random
import signal
import sqlite3
import subprocess
import sys

import pytest

from snapshots.errors import StoreDamaged, StoreFull, StoreMissing, StoreTooNew, StoreUnusable
from snapshots.storage import database
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.store.uppers import read_back, save

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


def test_a_new_store_is_private(store_path):
    os.umask(mask := os.umask(0))
    try:
        os.umask(0)
        Store.open(store_path).close()
        modes = {path.name: path.stat().st_mode & 0o777 for path in [store_path, *store_path.iterdir()]}
    finally:
        os.umask(mask)
    assert {mode for name, mode in modes.items() if (store_path / name).is_dir() or name == "store"} == {0o700}
    assert modes["store.db"] == 0o600


def test_a_store_is_made_below_directories_that_are_missing(tmp_path):
    with Store.open(tmp_path / "a" / "b" / "store") as store:
        assert store.path == tmp_path / "a" / "b" / "store"


def test_nothing_is_made_unless_asked_for(store_path):
    with pytest.raises(StoreMissing, match=str(store_path)):
        Store.open(store_path, create=False)
    assert not store_path.exists()
    store_path.mkdir()
    with pytest.raises(StoreMissing):
        Store.open(store_path, create=False)
    assert list(store_path.iterdir()) == []
    Store.open(store_path).close()
    Store.open(store_path, create=False).close()


def test_an_empty_directory_becomes_a_store(store_path):
    store_path.mkdir(mode=0o755)
    Store.open(store_path).close()
    assert store_path.stat().st_mode & 0o777 == 0o700


def test_somebody_elses_directory_does_not(store_path):
    store_path.mkdir(mode=0o755)
    (store_path / "thesis.txt").touch()
    with pytest.raises(StoreUnusable, match=r"thesis\.txt"):
        Store.open(store_path)
    assert [path.name for path in store_path.iterdir()] == ["thesis.txt"]
    assert store_path.stat().st_mode & 0o777 == 0o755


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    with Store.open(Path("store")) as store:
        monkeypatch.chdir("/")
        assert store.objects.read(store.objects.put(b"x" * 200_000)) == b"x" * 200_000


def test_ten_processes_make_one_store(store_path):
    script = "import sys\nfrom pathlib import Path\nfrom snapshots import Store\nsys.stdin.read()\n"
    script += "Store.open(Path(sys.argv[1])).objects.put(sys.argv[2].encode())"
    makers = [
        subprocess.Popen([sys.executable, "-c", script, store_path, str(number)], stdin=subprocess.PIPE)
        for number in range(10)
    ]
    for maker in makers:
        maker.stdin.close()
    assert [maker.wait() for maker in makers] == [0] * 10
    with Store.open(store_path) as store:
        assert len(store.objects) == 10


def test_a_stopped_process_does_not_keep_others_from_opening(store_path):
    script = "import sys, time\nfrom pathlib import Path\nfrom snapshots import Store\n"
    script += "store = Store.open(Path(sys.argv[1]))\nprint(flush=True)\ntime.sleep(100)"
    stopped = subprocess.Popen([sys.executable, "-c", script, store_path], stdout=subprocess.PIPE)
    stopped.stdout.readline()
    stopped.send_signal(signal.SIGSTOP)
    try:
        with Store.open(store_path) as store:
            assert store.objects.read(store.objects.put(b"x")) == b"x"
    finally:
        stopped.kill()
        stopped.communicate()


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling symlink"])
def test_a_place_that_is_no_directory(tmp_path, kind):
    path = tmp_path / "place"
    if kind == "dangling symlink":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.touch()
    with pytest.raises(StoreUnusable, match="place"):
        Store.open(path / "store" if kind == "below a file" else path)


def test_a_store_of_a_later_format(store_path):
    Store.open(store_path).close()
    with sqlite3.connect(store_path / "store.db") as connection:
        connection.execute(f"PRAGMA user_version={database.FORMAT + 1}")
    connection.close()
    before = (store_path / "store.db").read_bytes()
    with pytest.raises(StoreTooNew, match=f"format {database.FORMAT + 1}"):
        Store.open(store_path)
    assert (store_path / "store.db").read_bytes() == before


def spoil(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "garbage":
        data[:] = b"this is not a database\n" * 1000
    elif kind == "header":
        data[:100] = os.urandom(100)
    elif kind == "truncated":
        del data[database._PAGE_SIZE + 100 :]
    elif kind == "schema page":
        data[100 : database._PAGE_SIZE] = os.urandom(database._PAGE_SIZE - 100)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["garbage", "header", "truncated", "schema page"])
def test_a_damaged_database(store_path, kind):
    with Store.open(store_path) as store:
        store.objects.put_many(os.urandom(1000) for _ in range(200))
    spoil(store_path / "store.db", kind)
    with pytest.raises(StoreDamaged, match=r"store\.db"), Store.open(store_path) as store:
        list(store.objects)


def test_another_programs_database(store_path):
    Store.open(store_path).close()
    with sqlite3.connect(store_path / "store.db") as connection:
        connection.execute("PRAGMA application_id=7")
    connection.close()
    with pytest.raises(StoreDamaged, match="not the database of a store"):
        Store.open(store_path)


def test_a_table_is_missing(store_path):
    Store.open(store_path).close()
    with sqlite3.connect(store_path / "store.db") as connection:
        connection.execute("DROP TABLE links")
    connection.close()
    with pytest.raises(StoreDamaged, match="table links is missing"):
        Store.open(store_path)


def test_damage_found_late_is_an_error_of_the_store_too(store_path, base):
    with Store.open(store_path) as store:
        run = store.runs.create(base=base)
        save(store, run.id, {b"f%d" % number: os.urandom(1000) for number in range(500)})
    path = store_path / "store.db"
    data = bytearray(path.read_bytes())
    for page in range(3 * database._PAGE_SIZE, len(data), database._PAGE_SIZE):
        data[page : page + 200] = os.urandom(200)
    path.write_bytes(data)
    with Store.open(store_path) as store:
        with pytest.raises(StoreDamaged):
            store.upper(run.id).load()
        with pytest.raises(StoreDamaged):
            [store.objects.read(name) for name in store.objects]


def test_nothing_stays_open_when_opening_fails(store_path):
    Store.open(store_path).close()
    (store_path / "store.db").write_bytes(b"garbage" * 1000)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreDamaged):
        Store.open(store_path)
    assert os.listdir("/proc/self/fd") == before


def test_closing_twice_is_fine(store_path):
    store = Store.open(store_path)
    store.objects.put(b"x")
    store.close()
    store.close()


@pytest.fixture
def mounted(tmp_path):
    """Mounts a tmpfs at the place of the store."""
    point = tmp_path / "disk"
    point.mkdir()

    def mount(options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", point], check=True)
        return point

    yield mount
    subprocess.run(["umount", point], check=True)


@root
def test_a_read_only_disk(mounted, base):
    point = mounted("size=20m")
    with Store.open(point / "store") as store:
        run = store.runs.create(base=base)
        save(store, run.id, {b"a": b"data"})
    subprocess.run(["mount", "-o", "remount,ro", point], check=True)
    for path in (point / "store", point / "new"):
        with pytest.raises(StoreUnusable, match="Read-only"):
            Store.open(path)
    subprocess.run(["mount", "-o", "remount,rw", point], check=True)
    with Store.open(point / "store") as store:
        assert read_back(store, run.id) == {b"a": b"data"}


@root
def test_a_disk_becomes_read_only_while_open(mounted, base):
    """As the kernel does after an I/O error."""
    point = mounted("size=20m")
    with Store.open(point / "store") as store:
        run = store.runs.create(base=base)
    with Store.open(point / "store") as store:
        subprocess.run(["mount", "-o", "remount,ro", point], check=False)
        # files are open for writing, so the remount is refused; what can be refused is the next open
        assert store.runs.get(run.id) == run


@root
def test_another_users_store(tmp_path):
    path = tmp_path / "store"
    Store.open(path).close()
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    script = "import sys\nsys.path.insert(0, sys.argv[2])\nfrom pathlib import Path\n"
    script += "from snapshots.storage.store import Store\n"
    script += "from snapshots.errors import StoreUnusable\ntry: Store.open(Path(sys.argv[1]))\n"
    script += "except StoreUnusable as exc: print(exc)\n"
    for place in (path, tmp_path / "denied"):
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        answer = subprocess.run(
            [*nobody, sys.executable, "-c", script, place, os.getcwd()],
            capture_output=True,
            text=True,
        )
        assert "Permission denied" in answer.stdout, answer
        assert str(place) in answer.stdout


@root
def test_a_disk_too_small_for_a_store(mounted):
    point = mounted("size=32k")
    with pytest.raises(StoreFull):
        Store.open(point / "store")


@root
def test_a_store_can_be_opened_and_discarded_from_without_one_free_block(mounted, base):
    """What SQLite keeps beside its database has to be made first."""
    point = mounted("size=12m")
    with Store.open(point / "store") as store:
        run = store.runs.create(base=base)
        save(store, run.id, {b"a": random.Random(1).randbytes(2_000_000)})
    with (point / "fill").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    for _ in range(3):  # and again, with what is left
        with Store.open(point / "store") as store:
            assert len(read_back(store, run.id)) == 1
    with Store.open(point / "store") as store:
        store.discard(run.id)


@root
@pytest.mark.parametrize("size", [2000, 100_000, 500_000])
def test_a_full_disk_loses_nothing_that_was_saved(mounted, base, size):
    """Saved until the disk is full; then the store is whole, can be read, discarded from and used again."""
    source = random.Random(size)
    with Store.open(mounted("size=16m") / "store") as store:
        first, second = store.runs.create(base=base), store.runs.create(base=base)
        saved: dict[str, dict[bytes, bytes]] = {first.id: {}, second.id: {}}
        for number in range(100_000):
            run = (first, second)[number % 2]
            files = {b"%d" % (number * 100 + i): source.randbytes(size) for i in range(max(1, 50_000 // size))}
            try:
                save(store, run.id, files)
            except StoreFull:
                break
            saved[run.id] |= files
        else:
            pytest.fail("the disk did not fill")
        for run in (first, second):
            assert read_back(store, run.id) == saved[run.id]
        assert fsck(store).findings == ()
        store.discard(first.id)
        assert read_back(store, second.id) == saved[second.id]
        third = store.runs.create(base=base)
        save(store, third.id, {b"again": source.randbytes(500_000)})
        assert fsck(store).findings == ()


@root
def test_a_full_disk_keeps_the_spool_file(mounted):
    with Store.open(mounted("size=8m") / "store") as store:
        spool = store.path / "runs" / "spool"
        spool.write_bytes(b"s" * 1_000_000)
        filler = store.path / "runs" / "filler"
        filled = subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True)
        assert b"No space" in filled.stderr
        with pytest.raises(StoreFull):
            [store.objects.put_file(spool, keep=True) and store.objects.put(bytes([i]) * 10_000) for i in range(100)]
        assert spool.read_bytes() == b"s" * 1_000_000
        filler.unlink()
        assert store.objects.read(store.objects.put_file(spool)) == b"s" * 1_000_000
