"""The way out of a sandbox that may reach some hosts only: an HTTP proxy of the run's own.

Owns the proxy's process, from its start to its end.  The sandbox has a network namespace with nothing in it but a
loopback device; the listening socket is made inside that namespace and served from outside, so there is no route, no
name service and no address in there that could lead past the list.  Names are resolved out here, and the address
that was checked is the one that is connected to.  Knows no run.  The process is single-threaded but for resolving.

What it takes are ``CONNECT`` (for everything with TLS, and for ``ssh`` and others through it) and plain ``http://``
requests.  HTTP itself is h11's.
"""

import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import msgspec

from goexfs.session.confinement import Host
from goexfs.session.errors import SandboxError
from goexfs.session.namespaces import enter

if TYPE_CHECKING:
    import h11
    import trio

ADDRESS = ("127.0.0.1", 3128)
"""where the command finds it"""

_START_SECONDS = 10.0
_HEAD_SECONDS = 60.0
_CONNECT_SECONDS = 30.0
_CONNECTIONS = 256
_CHUNK = 1 << 16
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


def variables(hosts: tuple[Host, ...]) -> dict[bytes, bytes]:
    """What a command's environment gets, so that programs use the way out."""
    way = b"http://%s:%d" % (ADDRESS[0].encode(), ADDRESS[1])
    names = (b"HTTP_PROXY", b"HTTPS_PROXY", b"ALL_PROXY", b"http_proxy", b"https_proxy", b"all_proxy")
    own = (b"localhost", b"127.0.0.1", b"::1")  # what the run itself serves, unless the host's is meant
    inside = b",".join(name for name in own if not any(host.name == name.decode() for host in hosts))
    return {**dict.fromkeys(names, way), b"NO_PROXY": inside, b"no_proxy": inside, b"NODE_USE_ENV_PROXY": b"1"}


class Outlet:
    """The proxy from the side of the session process."""

    def __init__(self, init_pid: int, hosts: tuple[Host, ...]) -> None:
        """Start it for the network namespace of process ``init_pid``; raises ``SandboxError``."""
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(_START_SECONDS)
        fd = theirs.fileno()
        program = f"import sys; sys.path[:] = {sys.path!r}; from goexfs.session.outlet import main; main({fd})"
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, pass_fds=(fd,), start_new_session=True, cwd="/",
            )  # fmt: skip
        try:
            self._ours.sendall(msgspec.msgpack.encode((init_pid, hosts)))
            said = self._ours.recv(4096)
        except OSError:
            said = b"it does not answer"
        if said != b"ready":
            self.close()
            reason = said.decode(errors="replace") or "it ended"
            raise SandboxError(f"the way out to the hosts of --net could not be made: {reason}; --net off needs none")

    def close(self) -> None:
        """End it."""
        self._ours.close()
        try:
            self._popen.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def main(fd: int) -> NoReturn:
    """The beginning of the proxy's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=fd) as channel:
        init_pid, hosts = msgspec.msgpack.decode(channel.recv(_CHUNK), type=tuple[int, tuple[Host, ...]])
        try:
            listener = _listen_inside(init_pid)
            import trio

            trio.run(_Proxy(hosts).run, listener, channel)
        except OSError as error:
            channel.sendall((error.strerror or str(error)).encode())
    os._exit(0)


def _listen_inside(init_pid: int) -> socket.socket:
    """A socket that listens in the network namespace of another process, made by a child that goes there."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            enter(init_pid, "net")
            made = socket.create_server(ADDRESS, backlog=128)
            socket.send_fds(theirs, [b"ready"], [made.fileno()])
        except OSError as error:
            theirs.sendall((error.strerror or str(error)).encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        said, fds, _, _ = socket.recv_fds(ours, 4096, 1)
        os.waitpid(child, 0)
    if not fds:
        raise OSError(0, said.decode(errors="replace"))
    return socket.socket(fileno=fds[0])


class Refused(Exception):
    """The list does not allow it, or the other end is not there; ``status`` is HTTP's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def is_public_enough(address: str) -> bool:
    """Whether a name may lead to this address: not to this machine itself, nor to what only answers on the link
    (where clouds keep their credentials).  Who wants that has to name the address itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast)


class _Proxy:
    """The proxy in its own process."""

    def __init__(self, hosts: tuple[Host, ...]) -> None:
        self._hosts = hosts

    async def run(self, listener: socket.socket, channel: socket.socket) -> None:
        """Serve until the session process has gone or let go."""
        import trio

        room = trio.Semaphore(_CONNECTIONS)
        listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))

        async def serve(client: trio.SocketStream) -> None:
            async with room:
                try:
                    await self._serve(client)
                except* Exception:
                    pass  # one end hung up, or said what is not HTTP: this connection ends, and no other

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listening])
            channel.sendall(b"ready")
            session = trio.socket.from_stdlib_socket(channel.dup())
            while await session.recv(1):
                pass
            nursery.cancel_scope.cancel()

    async def _serve(self, client: "trio.SocketStream") -> None:
        import h11
        import trio

        talk = h11.Connection(h11.SERVER)
        try:
            with trio.fail_after(_HEAD_SECONDS):
                event = await _next(talk, client)
            if not isinstance(event, h11.Request):
                return
            name, port, target = _destination(event)
            server = await self._connect(name, port)
        except h11.RemoteProtocolError as error:
            await _refuse(client, 400, str(error))
            return
        except Refused as refused:
            await _refuse(client, refused.status, str(refused))
            return
        async with server:
            if target is None:
                await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                left, _closed = talk.trailing_data
                if left:
                    await server.send_all(left)
                await _both_ways(client, server)
            else:
                await _pass_on(talk, event, target, client, server)

    async def _connect(self, name: str, port: int) -> "trio.SocketStream":
        """A connection to an address that was checked."""
        import trio

        if not any(host.allows(name, port) for host in self._hosts):
            raise Refused(403, f"this run may not connect to {name}:{port}; --net {name}:{port} would allow it")
        try:
            found = await trio.socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Refused(502, f"{name} cannot be resolved: {error.strerror}") from None
        named_itself = name == "localhost" or _is_address(name)
        last = f"{name} leads to this machine or its link; name the address itself in --net to allow that"
        status = 403
        for family, kind, protocol, _, address in found:
            if not (named_itself or is_public_enough(str(address[0]))):
                continue
            sock = trio.socket.socket(family, kind, protocol)
            try:
                with trio.fail_after(_CONNECT_SECONDS):
                    await sock.connect(address)
            except (OSError, trio.TooSlowError) as error:
                sock.close()
                last, status = f"{name}:{port} does not answer: {getattr(error, 'strerror', None) or 'too slow'}", 502
                continue
            return trio.SocketStream(sock)
        raise Refused(status, last)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _destination(request: "h11.Request") -> tuple[str, int, bytes | None]:
    """Host, port, and what the host itself is to be asked for (None: it is a tunnel)."""
    from urllib.parse import urlsplit

    text = request.target.decode("ascii", "replace")
    tunnel = request.method == b"CONNECT"
    try:
        parts = urlsplit(f"//{text}" if tunnel else text)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        raise Refused(400, "this is no address") from None
    name = name.rstrip(".")
    if not (_is_address(name) or _NAME.fullmatch(name)):
        raise Refused(400, "this is a proxy: CONNECT HOST:PORT, or a request for http://HOST/")
    if tunnel:
        if port is None:
            raise Refused(400, "CONNECT needs a port")
        return name, port, None
    if parts.scheme != "http" or parts.username is not None:
        raise Refused(400, "only http:// is passed on as it is; everything else by CONNECT")
    return name, 80 if port is None else port, f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}".encode()


async def _next(talk: "h11.Connection", stream: "trio.SocketStream") -> "h11.Event | type[h11.PAUSED]":
    import h11

    while True:
        event = talk.next_event()
        if event is not h11.NEED_DATA:
            return event  # type: ignore[return-value]
        talk.receive_data(await stream.receive_some(_CHUNK))


async def _refuse(client: "trio.SocketStream", status: int, reason: str) -> None:
    body = f"goexfs: {reason}\n".encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    await client.send_all(head.encode() + b"Connection: close\r\n\r\n" + body)


async def _pass_on(
    talk: "h11.Connection", request: "h11.Request", target: bytes, client: "trio.SocketStream",
    server: "trio.SocketStream",
) -> None:  # fmt: skip
    """One plain request; whatever the client sends after it goes nowhere, since it may be meant for another host."""
    import h11
    import trio

    onward = h11.Connection(h11.CLIENT)
    own = (b"connection", b"keep-alive", b"upgrade")
    headers = [(name, value) for name, value in request.headers if name not in own and not name.startswith(b"proxy-")]
    begun = h11.Request(method=request.method, target=target, headers=[*headers, (b"Connection", b"close")])
    await server.send_all(onward.send(begun) or b"")
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            event = await _next(talk, client)
            while isinstance(event, h11.Data):
                await server.send_all(onward.send(h11.Data(data=event.data)) or b"")
                event = await _next(talk, client)
            await server.send_all(onward.send(h11.EndOfMessage()) or b"")

        nursery.start_soon(send)
        while data := await server.receive_some(_CHUNK):
            await client.send_all(data)
        nursery.cancel_scope.cancel()


async def _both_ways(client: "trio.SocketStream", server: "trio.SocketStream") -> None:
    import trio

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data := await source.receive_some(_CHUNK):
            await sink.send_all(data)
        await sink.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, client, server)
        nursery.start_soon(pump, server, client)
