"""Rules as values: reading them from TOML, putting sources together, and saying which one decides."""

import os
from pathlib import Path

import pytest

from goexfs.policy import files
from goexfs.policy.effective import PolicyWishes, assemble
from goexfs.policy.matching import HIDDEN, MASKED, READ_ONLY, Matcher
from goexfs.policy.rules import Kind, Limit, Policy, PolicyError, Source
from goexfs.policy.survey import survey


def matcher(*sources: Source) -> Matcher:
    return Matcher(Policy(sources))


def built_in(path: str, *, is_dir: bool = False) -> bool:
    return bool(matcher(files.built_in()).flags(path.encode(), is_dir=is_dir) & HIDDEN)


@pytest.mark.parametrize(
    "path",
    [".env", "deep/.env.local", ".netrc", "home/.aws/credentials", ".docker/config.json", "id_rsa", "a/id_ed25519",
     "server.pem", "config/key.pem", "deploy.key", "x.P12", ".git-credentials", ".kube/config", ".ENV"],
)  # fmt: skip
def test_secrets_are_hidden_by_default(path: str) -> None:
    assert built_in(path)


@pytest.mark.parametrize(
    "path",
    [".env.example", "web/.env.sample", ".env.production.example", "tests/data/server.pem", "test/id_rsa", "environ.py",
     "certs/cacert.pem", "lib/site-packages/certifi/cacert.pem", "etc/ssl/certs/ACCVRAIZ1.pem", "fullchain.pem",
     "node_modules/x/test.key", "public.pem", "id_rsa.pub", "config", "config.json", ".npmrc", "key.py",
     "keys/en.json"],
)  # fmt: skip
def test_what_looks_like_a_secret_and_is_none(path: str) -> None:
    assert not built_in(path)


def test_a_virtual_environment_called_env() -> None:
    assert not built_in(".env", is_dir=True)
    assert built_in(".ssh", is_dir=True)


def test_the_strongest_source_with_a_pattern_decides() -> None:
    weak = Source("weak", hide=("*.secret", "!open.secret"))
    strong = Source("strong", hide=("!b.secret", "open.secret"))
    found = matcher(weak, strong)
    assert found.flags(b"a.secret", is_dir=False) == HIDDEN
    assert found.flags(b"b.secret", is_dir=False) == 0
    assert found.flags(b"open.secret", is_dir=False) == HIDDEN
    finding = found.finding(Kind.HIDE, b"b.secret", is_dir=False)
    assert finding is not None
    assert (finding.holds, finding.source.name, finding.pattern) == (False, "strong", "!b.secret")


def test_a_file_in_the_base_can_only_forbid(tmp_path: Path) -> None:
    (tmp_path / ".goexfs.toml").write_text(
        'hide = ["!.env", "mine", "!mine/too"]\nmask = {"!id_rsa" = ""}\n[limits]\nfiles = 10\nbytes = "900G"\n'
    )
    policy = assemble(os.fsencode(tmp_path), PolicyWishes(), user_file=None)
    found = Matcher(policy)
    assert found.flags(b".env", is_dir=False) == HIDDEN
    assert found.flags(b"mine", is_dir=False) == HIDDEN
    assert policy.limit("files") == (Limit(10), policy.sources[-1])
    limit = policy.limit("bytes")
    assert limit is not None
    assert limit[0].most == 64 << 30
    loosened = assemble(os.fsencode(tmp_path), PolicyWishes(show=(".env", "mine")), user_file=None)
    assert Matcher(loosened).flags(b".env", is_dir=False) == 0
    assert Matcher(loosened).flags(b"mine", is_dir=False) == 0
    assert Matcher(loosened).flags(b".goexfs.toml", is_dir=False) == READ_ONLY


def test_the_order_of_sources(tmp_path: Path) -> None:
    user = tmp_path / "user.toml"
    user.write_text('hide = ["u"]\nlimits.files = {most = 5, then = "pause"}\n')
    more = tmp_path / "more.toml"
    more.write_text('mask = {"m" = "empty", "n" = ""}\nlimits.files = "1k"\nlimits.then = "snapshot"\n')
    policy = assemble(os.fsencode(tmp_path), PolicyWishes(files=(more,), hide=("h",)), user_file=user)
    assert [source.name for source in policy.sources] == ["built-in", str(user), str(more), "the command line"]
    assert policy.limit("files") == (Limit(1024, "snapshot"), policy.sources[2])
    assert Matcher(policy).placeholder(b"deep/m") == b"empty"
    assert Matcher(policy).flags(b"n", is_dir=False) == MASKED
    assert Policy.unpack(policy.pack()) == policy
    bare = assemble(os.fsencode(tmp_path), PolicyWishes(defaults=False), user_file=user)
    assert Matcher(bare).flags(b".env", is_dir=False) == 0
    assert Matcher(bare).flags(b"u", is_dir=False) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hide = 1", "f: hide: expected `array`, got `int`"),
        ("hide = [1]", "f: hide[0]: expected `str`, got `int`"),
        ("hyde = []", "f: object contains unknown field `hyde`"),
        ('hide = [""]', "f: hide: '' is no pattern; write it as in .gitignore"),
        ('hide = ["#a"]', "f: hide: '#a' is a comment in .gitignore; write \\#a for such a name"),
        ('hide = ["/"]', "f: hide: '/' matches nothing; write a pattern as in .gitignore"),
        ('limits.files = "many"', "f: limits.files: 'many' is no size or number; write 1000 or \"2G\""),
        ("limits.files = -1", "f: limits.files: -1 is no size or number; write 1000 or \"2G\""),
        ('limits.files = {most = 1, then = "ask"}', "f: limits.files.then: invalid enum value 'ask'"),
        ("hide = [", "f: Invalid value (at end of document)"),
    ],
)
def test_errors_name_file_and_key_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        files.parse(text, "f")
    assert str(caught.value) == message


def test_files_that_are_none(tmp_path: Path) -> None:
    assert files.read(tmp_path / "missing") is None
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "link").symlink_to("binary")
    for name in ("fifo", "large", "binary"):
        with pytest.raises(PolicyError, match=name):
            files.read(tmp_path / name)
    with pytest.raises(PolicyError, match="link"):
        files.read(tmp_path / "link", only_stricter=True)
    with pytest.raises(PolicyError, match="missing does not exist"):
        assemble(os.fsencode(tmp_path), PolicyWishes(files=(tmp_path / "missing",)), user_file=None)


def test_explaining_names_the_directory_that_is_hidden() -> None:
    found = matcher(Source("s", hide=("secret/", "!secret/open"))).explain(b"secret/open", is_dir=False)
    first = found[0]
    assert (first.kind, first.holds, first.pattern, first.path) == (Kind.HIDE, True, "secret/", b"secret")


def test_the_first_filter_lets_everything_through_that_matches() -> None:
    patterns = ("a*b", "*x", "[ab]c", "??", "d\\*", "e/**", "/f/g.*", "**/h", "i/", "J")
    names = ["ab", "axb", "x", "yx", "ac", "bc", "zz", "d*", "q", "g.h", "h", "i", "j", "J"]
    found = matcher(Source("s", hide=patterns))
    for above in ("", "e/", "f/"):
        for name in names:
            path = (above + name).encode()
            if found.flags(path, is_dir=True):
                assert found.may_match(name.encode()), path
    assert found.flags("\N{KELVIN SIGN}".encode(), is_dir=False) == 0
    kelvin = matcher(Source("s", hide=("k",)))
    assert kelvin.may_match("\N{KELVIN SIGN}".encode())
    assert kelvin.flags("\N{KELVIN SIGN}".encode(), is_dir=False) == HIDDEN


def test_survey(tmp_path: Path) -> None:
    for directory in ("a/b", ".ssh", ".git", "mine"):
        (tmp_path / directory).mkdir(parents=True)
    for name in (".env", "a/b/key.pem", ".ssh/id_rsa", ".git/id_rsa", "mine/id_rsa", "readme"):
        (tmp_path / name).touch()
    found = matcher(files.built_in(), Source("s", mask={"readme": ""}))
    result = survey(found, os.fsencode(tmp_path), untouchable=frozenset({b"mine"}), seconds=20)
    assert result == ((b".env", b".ssh/", b"a/b/key.pem"), (b"readme",), True)
    assert not survey(found, os.fsencode(tmp_path), untouchable=frozenset(), seconds=-1).complete


@pytest.mark.parametrize("path", ["../up", "/", ".", "missing/name", "file/name", "a\nb"])
def test_places_that_take_no_canary(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PolicyError, match="--canary"):
        assemble(os.fsencode(tmp_path), PolicyWishes(canaries=(path,)), user_file=None)
