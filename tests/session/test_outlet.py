"""The way out of a sandbox to some hosts: what is allowed, and how names are taken."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.session import RunStore
from goexfs.session.confinement import Confinement, Net
from goexfs.session.errors import SandboxError
from goexfs.session.outlet import is_public_enough
from tests.escape.conftest import PYTHON

TALK = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128), timeout=20)
s.sendall(sys.argv[1].encode().decode("unicode_escape").encode("latin-1"))
said = b""
while data := s.recv(4096):
    said += data
print(said.decode())
"""


@pytest.fixture
def server() -> Iterator[int]:
    """Answers any request with what it was asked, on loopback; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    asked = client.recv(65536)
                    client.sendall(b"HTTP/1.0 200 OK\r\n\r\nasked: " + asked)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_what_gets_through_and_what_does_not(store: RunStore, fresh_base: Path, server: int) -> None:
    host = f"127.0.0.1:{server}"
    allowed = Confinement.of(net=f"{host},pypi.org")
    with store.start(fresh_base) as run:

        def said(request: str) -> str:
            argv = [PYTHON, "-I", "-S", "-c", TALK, request]
            return run.exec(argv, confinement=allowed, capture=True).stdout.decode()

        head = r"Proxy-Secret: 1\r\nConnection: keep-alive\r\n\r\n"
        plain = said(rf"GET http://{host}/a?b=c HTTP/1.1\r\nHost: {host}\r\n{head}")
        assert "asked: GET /a?b=c HTTP/1.1" in plain
        assert "Proxy-Secret" not in plain and "keep-alive" not in plain
        assert "asked: anything" in said(rf"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nanything")
        others = (
            "localhost:1", f"localhost:{server}", "127.1:80", "[::1]:80", "pypi.org:22", "pypi.org.evil.example:443",
        )  # fmt: skip
        for other in others:
            assert " 403 " in said(rf"CONNECT {other} HTTP/1.1\r\nHost: {other}\r\n\r\n"), other
        for nonsense in ("nonsense", "GET /etc/passwd HTTP/1.1", "GET ftp://x/ HTTP/1.1"):
            assert " 400 " in said(rf"{nonsense}\r\nHost: x\r\n\r\n"), nonsense


def test_a_name_must_not_lead_home() -> None:
    for address in ("127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::ffff:127.0.0.1", "224.0.0.1"):
        assert not is_public_enough(address), address
    for address in ("192.0.2.1", "10.1.2.3", "2001:db8::1"):
        assert is_public_enough(address), address


def test_the_notation() -> None:
    net = Net.parse("PyPI.org, *.example.com:8443,[2001:db8::1]:443,10.0.0.1")
    allowed = [("pypi.org", 443), ("pypi.org", 80), ("a.b.example.com", 8443), ("2001:db8::1", 443), ("10.0.0.1", 80)]
    refused = [("pypi.org", 22), ("x.pypi.org", 443), ("example.com", 8443), ("badexample.com", 8443), ("10.0.0.1", 8)]
    for name, port in allowed:
        assert any(host.allows(name, port) for host in net.hosts), (name, port)
    for name, port in refused:
        assert not any(host.allows(name, port) for host in net.hosts), (name, port)
    for wrong in ("", "host,off,:1", "a b", "x:0", "x:99999", "http://x/"):
        with pytest.raises(SandboxError):
            Net.parse(wrong)
