"""Canaries are found again in the usual disguises, and in no innocent text."""

import base64
import binascii
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import goexfs
from goexfs import PolicyWishes, RunStore
from goexfs.policy.canaries import CHUNK, Finders, new_canary
from goexfs.session.errors import CanaryFound, PolicyViolated
from goexfs.session.policing import find_canary


@pytest.fixture
def store(goexfs_home: Path) -> Iterator[RunStore]:
    with goexfs.open_store() as opened:
        yield opened


@pytest.mark.parametrize("name", [".env", ".aws/credentials", "id_rsa", ".netrc", "k.json", ".pypirc", ".npmrc", "x"])
def test_a_canary_is_unique_and_holds_its_token(name: str) -> None:
    one, other = new_canary(name.encode()), new_canary(name.encode())
    assert one.token != other.token
    assert one.token.encode() in one.content
    assert one.content.isascii()


def test_disguises() -> None:
    canary = new_canary(b".env")
    token = canary.token.encode()
    finders = Finders([new_canary(b"other"), canary])
    for before in (b"", b"a", b"ab", b"abc", b"\xff\xfe" * 33):
        whole = before + canary.content
        for text in (
            whole, whole[::-1], base64.b64encode(whole), base64.urlsafe_b64encode(whole), base64.encodebytes(whole),
            binascii.hexlify(whole), binascii.hexlify(whole).upper(), quote(whole).encode(),
            "".join(f"%{byte:02X}" for byte in whole).encode(), b"x" + token + b"y",
        ):  # fmt: skip
            assert finders.in_pieces([b"", text]) is canary, text
    rng = random.Random(1)
    assert finders.in_pieces([rng.randbytes(1 << 20), base64.b64encode(rng.randbytes(1 << 20)), token[:-1]]) is None


@pytest.mark.parametrize("at", [0, CHUNK - 40, CHUNK - 1, CHUNK, 2 * CHUNK - 20])
def test_no_canary_is_cut_in_two(at: int) -> None:
    canary = new_canary(b".env")
    encoded = base64.encodebytes(canary.content)
    content = io.BytesIO(b"." * at + encoded + b"." * 5000)

    def read(offset: int, length: int) -> bytes:
        content.seek(offset)
        return content.read(length)

    assert Finders([canary]).in_content(len(content.getvalue()), read) is canary
    assert Finders([new_canary(b"x")]).in_content(len(content.getvalue()), read) is None


def started(store: RunStore, base: Path) -> goexfs.Session:
    return store.start(base, policy=PolicyWishes(canaries=(".env",)), on_exit="keep")


CARRIERS = {
    "content": 'cat .env > out',
    "name": 'touch "x$(cut -d= -f2 .env)"',
    "target": 'ln -s "$(cut -d= -f2 .env)" out',
    "attribute": 'touch out && setfattr -n user.a -v "$(cat .env)" out',
    "base64": 'base64 -w 30 .env > out',
    "end of a large file": 'head -c 3000000 /dev/zero > out; cat .env >> out',
}  # fmt: skip


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_merge_that_carries_a_canary_is_refused(store: RunStore, fresh_base: Path, carrier: str) -> None:
    if carrier == "attribute":
        script = "import os; open('out', 'w'); os.setxattr('out', 'user.a', open('.env', 'rb').read())"
        argv = [os.path.realpath("/proc/self/exe"), "-c", script]
    else:
        argv = ["sh", "-c", CARRIERS[carrier]]
    before = sorted(fresh_base.rglob("*"))
    with started(store, fresh_base) as run:
        assert run.exec(argv, sandbox=False).returncode == 0
    handle = store.run(run.id)
    for dry_run in (True, False):
        with pytest.raises(CanaryFound, match=r"carries the canary \.env in "):
            handle.merge(dry_run=dry_run)
    assert sorted(fresh_base.rglob("*")) == before
    assert handle.state == "kept"
    assert [read.path for read in handle.reads()] == [b".env"]


def test_what_does_not_carry_it_is_merged_and_the_canary_is_not(store: RunStore, fresh_base: Path) -> None:
    with started(store, fresh_base) as run:
        assert run.exec(["sh", "-c", "cat .env > out; echo fine > fine; test -s .env"]).returncode == 0
    handle = store.run(run.id)
    handle.merge(choose=lambda change: change.path != b"out")
    assert (fresh_base / "fine").read_text() == "fine\n"
    assert not (fresh_base / ".env").exists()
    record = handle.record
    canary = handle.policy.canaries[0]
    assert find_canary(record, b"curl -d " + base64.b64encode(canary.content)) == canary
    assert find_canary(record, b"curl") is None
    handle.discard()


def test_a_run_that_deleted_what_is_hidden_now_is_not_merged(store: RunStore, fresh_base: Path) -> None:
    """As when it began without a policy: its record is changed here, which nothing else does."""
    (fresh_base / "only").mkdir()
    (fresh_base / "only" / "secret").write_text("x")
    with store.start(fresh_base, policy=PolicyWishes(defaults=False), on_exit="keep") as run:
        run.exec(["sh", "-c", "rm -r only"])
    handle = store.run(run.id)
    policy = goexfs.Policy((*handle.policy.sources, type(handle.policy.sources[0])("later", hide=("secret",))))
    store.store.runs.update(run.id, options={**handle.record.options, "policy": policy.pack()})
    with pytest.raises(PolicyViolated, match=r"only/secret, which is hidden from it"):
        handle.merge()
    assert (fresh_base / "only" / "secret").read_text() == "x"
    handle.discard()
