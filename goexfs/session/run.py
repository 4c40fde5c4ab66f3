"""A mounted run in the hands of the one who started it: commands in it, and its end.

Owns the joining of sandbox, command and verdict.  Knows neither terminal nor flags: asking people is the command
line's.  Belongs to the thread of its store; signals are forwarded when that is the main thread.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from goexfs.session import channel, client, presets, process
from goexfs.session.children import Command, Stream
from goexfs.session.compensation import remember_confinement
from goexfs.session.confinement import Confinement, hidden_paths, readonly_paths, writable_paths
from goexfs.session.errors import SandboxError
from goexfs.session.handle import RunHandle
from goexfs.session.launch import Server
from goexfs.session.questions import Asker, Asking, Decide, LimitAsker
from goexfs.session.sandbox import Part, Sandbox
from goexfs.session.variables import agent_socket, divide, for_command
from goexfs.session.view import HOST, find_command
from snapshots.names import is_inside
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from goexfs.policy.survey import Survey
    from goexfs.session.effects import Wish
    from goexfs.session.onto import Choices
    from snapshots.merging.choosing import Selection
    from snapshots.merging.merge import MergeResult, Progress, Review
    from snapshots.review.changes import Change
    from snapshots.storage.effects import Effect

Words = str | bytes | os.PathLike[str]


class Completed(NamedTuple):
    """How a command ended."""

    argv: tuple[bytes, ...]
    returncode: int
    """exit status, 128+N when signal N ended it"""
    stdout: bytes | None
    """None unless captured"""
    stderr: bytes | None
    signal: int | None
    """SIGTERM, SIGHUP or SIGQUIT when goexfs itself was told to end meanwhile, else None"""


OnExit = Literal["discard", "keep", "forget"]
"""What becomes of a run whose ``with`` block is left, or whose process dies, without a verdict.

``discard``: the block discards it; when the process dies it is kept.  ``keep``: it is kept.  ``forget``: in both cases
nothing remains of it, not even its record."""


class Session(RunHandle):
    """A run that is mounted for as long as this process lives and wants: a context manager, see ``OnExit``."""

    def __init__(
        self, store: Store, record: Run, server: Server, mountpoint: bytes, on_exit: OnExit, *,
        surveyed: "Survey | None" = None,
    ) -> None:  # fmt: skip
        super().__init__(store, record)
        self._surveyed = surveyed
        self._server = server
        self._mountpoint = mountpoint
        self._on_exit = on_exit
        self._settled_already = False
        self._unnamed = not record.command
        self.taken_from: tuple[str, ...] = ()
        """after the end: processes that still used the mount and lost it"""

    @property
    def mountpoint(self) -> Path:
        """Where the run is mounted."""
        return Path(os.fsdecode(self._mountpoint))

    @property
    def _mounted(self) -> "tuple[Session, ...]":
        """One for each base, itself for the first."""
        return (self,)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._settled_already:
            return
        if self._on_exit == "keep":
            self.keep()
        else:
            self.discard()

    def exec(
        self,
        argv: Sequence[Words],
        *,
        cwd: Words | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        capture: bool = False,
        timeout: float | None = None,
        grace: float = process.GRACE_SECONDS,
        sandbox: bool = True,
        confinement: Confinement | None = None,
        ask: "Callable[[Effect], bool] | None" = None,
        decide: "Decide | None" = None,
    ) -> Completed:
        """Run a command in the run, to its end; nothing that it started is left when this returns.

        ``cwd`` (default: the current directory) is where it works if that is in the base, else it works in the base;
        ``env`` replaces the environment, but for ``GOEXFS_RUN`` and ``GOEXFS_BASE``; without it the command gets the
        caller's without what looks like a secret (``withheld``).  ``capture`` collects both outputs.  ``confinement``
        is what it may do (see ``goexfs.Confinement``).  In the sandbox it has all bases of the run at their places; a
        run with several has no other way.  Without ``sandbox`` it works in the mount, unconfined.
        ``ask`` is called, in this thread, about what the command wants to do now and cannot be undone: without it, that
        is refused.  ``decide`` is called so about what waits at a limit with ``pause`` (see ``LimitAsker``): without
        it, that waits for ``allow`` or ``deny``.  SIGTERM, SIGHUP and SIGQUIT for this process are forwarded;
        ``grace`` seconds later it is killed.

        Raises ``CommandNotFound``, ``CommandNotExecutable``, ``SandboxError``, and ``TimeoutError`` after ``timeout``
        seconds.
        """
        words = tuple(os.fsencode(word) for word in argv)
        wishes = confinement or Confinement()
        if not sandbox and len(self._mounted) > 1:
            raise SandboxError(f"run {self.record.label} has several bases, which are in one place only in the sandbox")
        if env is not None:
            variables = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        else:
            variables = divide(os.environb, wishes).variables if sandbox else dict(os.environb)
        box = self._sandbox(wishes, variables) if sandbox else None
        place = self._working_directory(cwd, box)
        if box is not None:
            box, variables = client.provide(box, variables, self._store.runs.directory(self.id))
        variables = for_command(variables, run_id=self.id, base=self.base, sandbox=box)
        variables[channel.VARIABLE.encode()] = channel.INSIDE if box is not None else self._channel
        hosts = wishes.net.hosts if sandbox else ()
        if hosts:
            from goexfs.session import outlet

            variables |= outlet.variables(hosts)
        view = HOST if box is None else box.view()
        find_command(words[0] if words else b"", view=view, cwd=place, env=variables)
        command_line = tuple(map(os.fsdecode, words))
        if self._unnamed and self.record.command != command_line:  # then listings show the latest
            self._store.runs.update(self.id, command=command_line)
        with _captured(capture) as files:
            out, err = (stdout, stderr) if files is None else files
            directory = self._store.runs.directory(self.id)
            command = Command(
                words, place, variables, self.id, box, stdin, out, err, hosts, wishes.processes, wishes.memory,
                directory,
            )
            if sandbox:
                remember_confinement(self._store, self.id, wishes)
            with ExitStack() as stack:
                askers: list[Asking] = [] if ask is None else [stack.enter_context(Asker(directory, ask))]
                pausing = [each for each in self._mounted if each.policy.pauses] if decide is not None else []
                if decide is not None and pausing:
                    askers.append(LimitAsker([self._store.runs.directory(each.id) for each in pausing], decide))
                ended = process.run(command, timeout=timeout, grace=grace, askers=askers)
            outputs = (None, None) if files is None else (_content(files[0]), _content(files[1]))
        record = self._store.runs.update(self.id, exit_status=ended.status)
        if "exit" in record.options.get("auto_snapshot", ()) and self.state == "active":
            self.snapshot_now("exit")
        return Completed(words, ended.status, outputs[0], outputs[1], ended.signal)

    def withheld(self, confinement: Confinement) -> tuple[bytes, ...]:
        """The variables of this process that ``exec`` would not give to a command, since they look like secrets."""
        return divide(os.environb, confinement).withheld

    def _sandbox(self, wishes: Confinement, variables: Mapping[bytes, bytes]) -> Sandbox:
        hidden = (os.path.realpath(os.fsencode(self._store.path)), *_own_configuration())
        bases = tuple(part.base for part in self._mounted if part.base != b"/")
        return Sandbox(
            self.base, self._mountpoint, hidden,
            rw=writable_paths((*wishes.rw, *agent_socket(variables)), bases=bases, hidden=hidden),
            network=wishes.net.kind == "host",
            ro=readonly_paths(wishes.ro, bases=bases, hidden=hidden),
            empty=hidden_paths((*presets.load(presets.DEFAULT).hide, *wishes.hide)),
            parts=tuple(Part(part.base, part._mountpoint) for part in self._mounted[1:]),
            user_namespaces=wishes.user_namespaces, channel=self._channel,
        )  # fmt: skip

    @property
    def _channel(self) -> bytes:
        """The socket on which the command may ask its run's server."""
        return os.fsencode(self._store.runs.directory(self.id) / os.fsdecode(channel.NAME))

    def _working_directory(self, cwd: Words | None, box: Sandbox | None) -> bytes:
        """Where the command is to work: a path of its view."""
        try:
            wanted = os.getcwdb() if cwd is None else os.path.realpath(os.fsencode(cwd))
        except FileNotFoundError:
            wanted = self.base
        if not is_inside(wanted, self.base):
            wanted = self.base
        inside = os.path.normpath(os.path.join(self._mountpoint, os.path.relpath(wanted, self.base)))
        covered = box is not None and box.view().source(wanted) != inside  # in /tmp, with / as the base
        if covered or not os.path.isdir(inside):  # or deleted in the run
            wanted, inside = self.base, self._mountpoint
        return inside if box is None else wanted

    def keep(self) -> None:
        """Unmount and keep the run for a later verdict."""
        self._end()

    def unmount(self, *, force: bool = False) -> tuple[str, ...]:
        """As ``RunHandle.unmount``; the run counts as kept."""
        found = super().unmount(force=force)
        self._settled_already = True
        self._server.let_go()
        return found

    def merge(
        self, *, dry_run: bool = False, choose: "Callable[[Change], bool] | None" = None,
        hunks: "Selection | None" = None, verify: Sequence[str] = (), effects: "Wish | None" = None,
        resolve: "Choices | None" = None, check_reads: bool = False, progress: "Progress | None" = None,
        review: "Review | None" = None,
    ) -> "MergeResult":  # fmt: skip
        """Unmount and merge.  A refused merge leaves the run kept; ``dry_run`` leaves it mounted."""
        if not dry_run:
            self._end()
        return super().merge(
            dry_run=dry_run, choose=choose, hunks=hunks, verify=verify, effects=effects, resolve=resolve,
            check_reads=check_reads, progress=progress, review=review,
        )  # fmt: skip

    def discard(self, *, forget: bool | None = None, undo: "Literal['sandbox', 'outside', 'skip']" = "sandbox") -> None:
        """Unmount and discard; ``forget`` is by default what ``on_exit`` says."""
        self._end()
        super().discard(forget=self._on_exit == "forget" if forget is None else forget, undo=undo)

    def _end(self) -> None:
        with _uninterrupted():
            if self.state in ("active", "crashed"):
                self.taken_from = self.unmount(force=True)
            self._settled_already = True
            self._server.let_go()

    def wait(self) -> None:
        """Wait until somebody unmounts the run."""
        while not self._wait_for_end(3600.0):
            pass
        self._settled_already = True


def _own_configuration() -> tuple[bytes, ...]:
    """Where the user says how databases and servers are reached: not for a run to read."""
    from goexfs.effects.configuration import configuration_path

    place = os.path.realpath(os.fsencode(configuration_path().parent))
    return (place,) if os.path.isdir(place) else ()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave a mount behind: it counts when the mount is gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _captured(wanted: bool) -> Iterator[tuple[int, int] | None]:
    """Two files in memory for a command's outputs: unlike pipes they never fill, and need nobody to empty them."""
    if not wanted:
        yield None
        return
    out = os.memfd_create("stdout", os.MFD_CLOEXEC)
    err = os.memfd_create("stderr", os.MFD_CLOEXEC)
    try:
        yield out, err
    finally:
        os.close(out)
        os.close(err)


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data
