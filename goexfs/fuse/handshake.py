"""The first exchange with the kernel (FUSE_INIT), with features that libfuse and pyfuse3 do not let us ask for.

libfuse 3.14 always asks for HANDLE_KILLPRIV, and pyfuse3 offers no way to ask for anything else.  What we want of the
kernel:

* HANDLE_KILLPRIV_V2 instead: with it the kernel remembers that a file has no ``security.capability``; without it, it
asks on every single write(2).
* CACHE_SYMLINKS: the target of a symlink is asked for once.
* PARALLEL_DIROPS: who waits for one name (of a slow base) does not stop others from looking for another one in the same
directory.
* DONT_MASK: the umask comes along and is applied here, because a default ACL takes its place.
* POSIX_ACL, where others than the owner use the mount: the kernel evaluates ACLs (and asks for that of each inode that
somebody else than its owner wants to use).  pyfuse3 would force default_permissions on along with it, which costs
a request for each new file; a mount of one's own shows and keeps ACLs without.

So libfuse is first given one end of a socket pair under the number of the device.  The kernel's INIT is passed on to
it, its reply is read, the flags are exchanged, the reply is passed on to the kernel, and the device takes the
place of the socket (dup2).  From there on libfuse talks to the kernel alone.

Owns the layout of these two messages.  Knows no overlay.  Threading: the event loop's thread.
"""

import os
import select
import socket
import struct

DONT_MASK = 1 << 6
PARALLEL_DIROPS = 1 << 18
HANDLE_KILLPRIV = 1 << 19
POSIX_ACL = 1 << 20
CACHE_SYMLINKS = 1 << 23
HANDLE_KILLPRIV_V2 = 1 << 28

_OP_INIT = 26
_IN_HEADER = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extension length, padding
_INIT_IN = struct.Struct("<IIII")  # major, minor, readahead, flags; more follows
_OUT_HEADER = struct.Struct("<IiQ")  # length, error, unique
_INIT_OUT = struct.Struct("<IIII")  # major, minor, readahead, flags; more follows

_BUFFER = 1 << 20
_TIMEOUT_MS = 5000


class HandshakeError(OSError):
    """The kernel or libfuse said something that is not an INIT."""


class Handshake:
    """Stands between the kernel and libfuse for the first message; ``fd`` is the number to give to libfuse."""

    def __init__(self, device: int, *, evaluate_acls: bool = False) -> None:
        """Takes the descriptor *device* over."""
        self._wanted = CACHE_SYMLINKS | PARALLEL_DIROPS | DONT_MASK | (POSIX_ACL if evaluate_acls else 0)
        self._device = device
        libfuse_end, self._our_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._our_end.setblocking(False)
        self.fd = libfuse_end.detach()
        self._question: bytes | None = None
        self.granted = 0
        """the flags both sides agreed on, 0 before that"""

    def step(self) -> bool:
        """To be called before each receive of libfuse: False when it is to receive at once, True when all is done."""
        if self._question is None:
            self._our_end.send(self._read_device())
            return False
        reply = amended(self._question, self._our_end.recv(_BUFFER), self._wanted)
        self.granted = _INIT_OUT.unpack_from(reply, _OUT_HEADER.size)[3] if len(reply) > _OUT_HEADER.size else 0
        os.write(self._device, reply)
        self.skip()
        return True

    def skip(self) -> None:
        """Put the device in the place of the socket; without any `step` before, libfuse negotiates by itself."""
        os.dup2(self._device, self.fd, inheritable=False)
        os.close(self._device)
        self._our_end.close()

    def _read_device(self) -> bytes:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        if not poll.poll(_TIMEOUT_MS):
            raise HandshakeError("the kernel did not begin to talk FUSE")
        self._question = question = os.read(self._device, _BUFFER)
        if len(question) < _IN_HEADER.size + _INIT_IN.size or _IN_HEADER.unpack_from(question)[1] != _OP_INIT:
            raise HandshakeError("the kernel's first message is not a FUSE_INIT")
        return question


def amended(question: bytes, reply: bytes, wanted: int) -> bytes:
    """libfuse's *reply* with the flags that are *wanted*, as far as the kernel's *question* offers them."""
    offered = _INIT_IN.unpack_from(question, _IN_HEADER.size)[3]
    error = _OUT_HEADER.unpack_from(reply)[1]
    if error or len(reply) < _OUT_HEADER.size + _INIT_OUT.size:
        return reply
    major, minor, readahead, flags = _INIT_OUT.unpack_from(reply, _OUT_HEADER.size)
    flags |= offered & wanted
    if offered & HANDLE_KILLPRIV_V2:
        flags = flags & ~HANDLE_KILLPRIV | HANDLE_KILLPRIV_V2
    changed = bytearray(reply)
    _INIT_OUT.pack_into(changed, _OUT_HEADER.size, major, minor, readahead, flags)
    return bytes(changed)
