"""Watching the base for changes from outside.

Owns the inotify watches (through watchdog's `InotifyFD`) and the paths they stand for.  watchdog's own recursive
observer is not used: it passes over watches that the kernel refuses, so that nobody learns of a limit; it says
nothing of events that were lost, nor of a base that was moved; it walks into whatever is mounted below, our own mount
among it; and it holds every rename back for half a second.  Knows no overlay: what happens is reported through
callbacks.

Directories are reached by descriptors (`snapshots.layers.base`), so neither a long path nor a symlink leads astray.
Other filesystems mounted below the base are not watched, nor is what is hidden from the run.

Threading: watches are made in a worker thread, events are read in watchdog's thread, callbacks run on the event
loop's.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import trio
from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

from snapshots.errors import BaseError
from snapshots.layers.base import BaseDir, BaseTree

GATHER_SECONDS = 0.02
"""how long events are gathered before they are passed on: what comes in a burst is looked at once"""
MAX_GATHERED = 10_000
"""paths kept for the next report; with more, anything may have changed"""
MOVE_SECONDS = 1.0
"""after a directory has left one place, how long it may take to turn up in another"""

_CHANGES = Mask(
    InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVE
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
)
# Not IN_OPEN, IN_ACCESS and IN_CLOSE_NOWRITE: our own reading of the base would report itself.
_MASK = Mask(
    _CHANGES
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_EXCL_UNLINK
)

OnWatched = Callable[[bool], None]
OnChanged = Callable[[Iterable[bytes] | None], None]
Report = Callable[[str], None]

log = logging.getLogger(__name__)


class WatchLimit(Exception):
    """The kernel allows this user no more inotify watches or instances."""


class _Watched:
    """One directory with a watch; its path is found by going up."""

    __slots__ = ("children", "mark", "name", "parent", "wd")

    def __init__(self, parent: "_Watched | None", name: bytes, wd: WatchDescriptor, mark: CallbackId) -> None:
        self.parent = parent
        self.name = name
        self.wd = wd
        self.mark = mark
        self.children: dict[bytes, _Watched] = {}


class BaseWatch:
    """Watches the directory *base*; *hidden* are paths below it that are left alone."""

    def __init__(self, base: bytes, *, hidden: Iterable[bytes] = ()) -> None:
        self._base = base
        self._hidden = frozenset(hidden)
        self._lock = threading.Lock()
        """guards everything below"""
        self._root: _Watched | None = None
        self._by_wd: dict[WatchDescriptor, _Watched] = {}
        self._leaving: dict[int, tuple[_Watched, float]] = {}
        """directories that were moved away, by the cookie of the move"""
        self._gathered: set[bytes] | None = set()
        """paths with news; None: anything may have changed"""
        self._problem: str | None = None
        """why the watch is of no use any more"""
        self._wake: Callable[[], None] = lambda: None
        self._inotify: InotifyFD | None = None
        self._stopped = False
        self._last_id = 0

    @property
    def count(self) -> int:
        """Directories that are watched."""
        return len(self._by_wd)

    async def run(self, on_watched: OnWatched, on_changed: OnChanged, report: Report) -> None:
        """Arm the watch, then pass on what happens until cancelled.

        *on_watched* is told True when every directory is watched, and False when that is no longer so; *on_changed*
        gets paths relative to the base, or None when anything may have changed; *report* gets one line for a person,
        once, when the watch is not possible.
        """
        token = trio.lowlevel.current_trio_token()
        news = trio.Event()

        def wake() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(lambda: news.set())  # noqa: PLW0108 - the event that is waited for by then

        self._wake = wake
        try:
            await trio.to_thread.run_sync(self._arm, abandon_on_cancel=True)
            armed = False
            while True:
                with self._lock:
                    problem, gathered = self._problem, self._gathered
                    self._gathered = set()
                if problem is not None:
                    if armed:
                        on_watched(False)
                    report(problem)
                    return
                if not armed:
                    armed = True
                    on_watched(True)
                elif gathered is None:
                    on_changed(None)
                elif gathered:
                    on_changed(gathered)
                await news.wait()
                await trio.sleep(GATHER_SECONDS)
                news = trio.Event()
        finally:
            self._stop()

    # -- arming: in a worker thread

    def _arm(self) -> None:
        try:
            tree = BaseTree(self._base)
        except BaseError as e:
            self._fail(str(e))
            return
        try:
            inotify = _Inotify(self)
            with self._lock:
                if self._stopped:
                    inotify.close()
                    return
                self._inotify = inotify
            inotify.start()
            self._add(tree, tree.root, None)
        except WatchLimit as e:
            self._fail(str(e))
        except OSError as e:
            self._fail(_limit(e) or f"the base cannot be watched ({e}): changes from outside show after a second")
        finally:
            tree.close()

    def _add(self, tree: BaseTree, top: BaseDir, parent: _Watched | None, *, report: bool = False) -> None:
        """Watch *top* and every directory below it; with *report* every name in them counts as changed."""
        todo: list[tuple[BaseDir, _Watched | None]] = [(top, parent)]
        while todo and not self._stopped:
            directory, above = todo.pop()
            try:
                watched = self._add_one(tree, directory, above)
                if watched is None:
                    continue
                with os.scandir(tree.fd(directory)) as entries:
                    found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
                todo += [(tree.child(directory, name), watched) for name, is_dir in found if is_dir]
                if report:
                    with self._lock:
                        for name, _ in found:
                            path = self._path(watched, name)
                            if path is not None:
                                self._gather(path)
            except OSError as e:
                if directory is tree.root:
                    raise
                # Gone meanwhile, or not readable for this user (then neither is it through the mount).
                if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EACCES, errno.EPERM):
                    raise
            finally:
                tree.release(directory)

    def _add_one(self, tree: BaseTree, directory: BaseDir, above: _Watched | None) -> _Watched | None:
        if directory.path in self._hidden:
            return None
        fd = tree.fd(directory)
        if os.fstat(fd).st_dev != tree.dev:
            return None
        inotify = self._inotify
        if inotify is None:
            return None
        self._last_id += 1
        mark = CallbackId(self._last_id)
        try:
            wd = inotify.add_callback(b"/proc/self/fd/%d" % fd, _MASK, self, mark)
        except OSError as e:
            said = _limit(e)
            if said is not None:
                raise WatchLimit(said) from None
            raise
        if wd < 0:  # how watchdog says EACCES
            return None
        with self._lock:
            known = self._by_wd.get(wd)
            if known is not None:  # looked at a second time, or moved here while it was being walked
                inotify.remove_callbacks([(wd, mark)])
                self._cut(known)
                known.parent, known.name = above, directory.name
                watched = known
            else:
                watched = self._by_wd[wd] = _Watched(above, directory.name, wd, mark)
            if above is None:
                self._root = watched
            else:
                above.children[directory.name] = watched
        return watched

    # -- events: in watchdog's thread

    def on_event(self, event: InotifyEvent) -> None:
        """One event of one watch."""
        appeared: _Watched | None = None
        with self._lock:
            watched = self._by_wd.get(event.wd)
            if watched is None:
                return
            if watched is self._root and event.mask & (
                InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_UNMOUNT
            ):
                self._lost_base()
                return
            if event.mask & (InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF):
                return  # its parent says so as well
            path = self._path(watched, event.name)
            if path is None:
                return  # in a directory that was moved out of the base
            self._gather(path)
            if event.mask & InotifyConstants.IN_ISDIR and event.name:
                if event.is_moved_from:
                    self._leaves(watched, event)
                elif (event.is_moved_to and not self._arrives(watched, event)) or event.is_create:
                    appeared = watched
        if appeared is not None:
            self._watch_new(appeared, event.name)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """The directory of a watch is gone."""
        with self._lock:
            watched = self._by_wd.pop(wd, None)
            if watched is not None:
                self._cut(watched)

    def on_queue_overflow(self) -> None:
        """The kernel dropped events, so also directories may have come that nobody watches: look at everything again.
        """
        with self._lock:
            self._gathered = None
            self._wake()
        self._watch_all_again()

    def _watch_new(self, above: _Watched, name: bytes) -> None:
        """A directory appeared.

        What is in it by the time it has a watch may have been made before, and is reported.
        """
        with self._lock:
            path = self._path(above, name)
        if path is None:
            return
        try:
            with BaseTree(self._base) as tree:
                self._add(tree, tree.dir(path), above, report=True)
        except (WatchLimit, BaseError, OSError) as e:
            self._fail(str(e))

    def _watch_all_again(self) -> None:
        try:
            with BaseTree(self._base) as tree:
                self._add(tree, tree.root, None)
        except (WatchLimit, BaseError, OSError) as e:
            self._fail(str(e))
        with self._lock:
            self._gathered = None
            self._wake()

    # -- with the lock held

    def _path(self, watched: _Watched, name: bytes) -> bytes | None:
        names = [name] if name else []
        while watched.parent is not None:
            names.append(watched.name)
            watched = watched.parent
        return b"/".join(reversed(names)) if watched is self._root else None

    def _gather(self, path: bytes) -> None:
        if self._gathered is None:
            return
        if not self._gathered:
            self._wake()
        self._gathered.add(path)
        if len(self._gathered) > MAX_GATHERED:
            self._gathered = None

    def _cut(self, watched: _Watched) -> None:
        parent = watched.parent
        if parent is not None and parent.children.get(watched.name) is watched:
            del parent.children[watched.name]

    def _leaves(self, parent: _Watched, event: InotifyEvent) -> None:
        now = time.monotonic()
        for cookie, (gone, since) in list(self._leaving.items()):
            if now - since > MOVE_SECONDS:
                del self._leaving[cookie]
                self._unwatch(gone)
        watched = parent.children.pop(event.name, None)
        if watched is not None:
            watched.parent, watched.name = None, b""
            self._leaving[event.cookie] = watched, now

    def _arrives(self, parent: _Watched, event: InotifyEvent) -> bool:
        moved = self._leaving.pop(event.cookie, None)
        if moved is None:
            return False
        watched = moved[0]
        watched.parent, watched.name = parent, event.name
        parent.children[event.name] = watched
        return True

    def _unwatch(self, top: _Watched) -> None:
        """Out of the base for good: its watches are of no use."""
        todo, dropped = [top], []
        while todo:
            watched = todo.pop()
            todo += watched.children.values()
            if self._by_wd.pop(watched.wd, None) is not None:
                dropped.append((watched.wd, watched.mark))
        if self._inotify is not None and dropped:
            with suppress(OSError):
                self._inotify.remove_callbacks(dropped)

    def _lost_base(self) -> None:
        self._problem = (
            f"the base {os.fsdecode(self._base)} was moved or removed; what the run has not changed of it may be gone"
        )
        self._wake()

    def _fail(self, problem: str) -> None:
        with self._lock:
            if self._problem is None:
                self._problem = problem
            self._wake()

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            inotify, self._inotify = self._inotify, None
            self._by_wd.clear()
        if inotify is not None and inotify.is_alive():
            inotify.stop()


class _Inotify(InotifyFD):
    """watchdog's reader of one inotify instance, with ours as the only callback."""

    def __init__(self, callback: BaseWatch) -> None:
        super().__init__()
        self.callback = callback

    def handle_event(self, event: InotifyEvent) -> None:
        """An exception would end the thread, and with it all reports, in silence."""
        try:
            if event.is_queue_overflow:
                self.callback.on_queue_overflow()
            else:
                super().handle_event(event)
        except Exception:
            log.exception("an event of the base could not be handled; anything may have changed")
            self.callback.on_queue_overflow()


def _limit(e: OSError) -> str | None:
    """What to tell the user when *e* is a limit of inotify; None when it is something else."""
    if e.errno == errno.ENOSPC:
        name = "max_user_watches"
    elif e.errno in (errno.EMFILE, errno.ENFILE):
        name = "max_user_instances"
    else:
        return None
    return (
        f"too many directories to watch (limit fs.inotify.{name}): changes made to the base from outside show after a "
        f"second, and the run is slower; raise it with: sysctl fs.inotify.{name}=1048576"
    )
