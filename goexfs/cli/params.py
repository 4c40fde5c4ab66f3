"""What commands take: a RUN, a DIR as bytes, and the shell's completion of runs.

Owns the click parameter types that several themes share.  The store is opened only for completion, read as it is
and never created by it.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from goexfs.cli.output import age, command_line, home, printable

if TYPE_CHECKING:
    from goexfs.session import RunHandle


class RunRef(click.ParamType[str]):
    """The beginning of a run's id, its name, or ``@``: resolved by the store, completed from it."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names and ids of the runs that are active or kept, with what they are over; nothing on any error."""
        import goexfs

        try:
            with goexfs.open_store(create=False) as store:
                records = [handle.record for handle in store.runs()]
        except Exception:  # a completion must never write into the line being typed
            return []
        items = []
        for record in reversed(records):
            about = f"{record.state}, {age(record.created_ns)} ago, {home(record.base)}: {command_line(record.command)}"
            for word in filter(None, (record.name, record.id)):
                if word.startswith(incomplete):
                    items.append(CompletionItem(word, help=about))
        return items


class PointRef(RunRef):
    """A run, or ``RUN@POINT``: a snapshot's name, ``~N``, ``#RECORD`` or ``{TIME}``; completed from the store."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Runs, and after an ``@`` the snapshots of the run before it."""
        import goexfs

        before, at, beginning = incomplete.rpartition("@")
        if not at:
            return super().shell_complete(ctx, param, incomplete)
        try:
            with goexfs.open_store(create=False) as store:
                snapshots = store.run(before or "@").snapshots()
        except Exception:  # as above
            return []
        return [CompletionItem(f"{before}@{s.name}", help=s.message) for s in snapshots if s.name.startswith(beginning)]


class Size(click.ParamType[int]):
    """Bytes, as ``500``, ``64K``, ``256M`` or ``2G`` (binary units)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,12})\s*([kmgt]?)i?b?", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no size; write 256M or 2G", param, ctx)
        return int(found[1]) << (10 * " kmgt".index(found[2] or " "))


class StoreLimit(Size):
    """A size, or ``none``, which is 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if str(value).strip().lower() == "none":
            return 0
        found = super().convert(value, param, ctx)
        if not found and not isinstance(value, int):
            self.fail("a store of no size holds nothing; write 20G, or none for no limit", param, ctx)
        return found


RUN = RunRef()
POINT = PointRef()
ANY_PATH = click.Path(path_type=bytes, readable=False)
"""Any path, as bytes: whether it exists and is a directory is for the library to say, with its own status."""

def _occasions(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    from snapshots.errors import RunError
    from snapshots.history.occasions import parse_occasions

    if words:
        try:
            parse_occasions(words)
        except RunError as error:
            raise click.BadParameter(str(error), ctx, param) from None
    return words


auto_snapshot_option = click.option(
    "--auto-snapshot", metavar="WHEN", multiple=True, callback=_occasions,
    help="Snapshots by themselves: exit (of CMD), quiet=SECONDS or every=CHANGES (repeatable).",
)  # fmt: skip
history_limit_option = click.option(
    "--history-limit", type=Size(), metavar="SIZE", help="How much of its past the run keeps (default: 256M)."
)
store_limit_option = click.option(
    "--store-limit", type=StoreLimit(), metavar="SIZE|none",
    help="How much the whole store may take up, this time (default: 20G, or a tenth of its disk).",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
color_option = click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours; auto: on a terminal, unless NO_COLOR is set.",
)


def path_in(run: "RunHandle", path: bytes) -> bytes:
    """A PATH argument as the run calls it: relative to its base, or absolute in a further one.

    Where it is meant from is as for ``below_base``.
    """
    places = [(part.base, part.record.mountpoint) for part in run.parts]
    return below_base(path, *places[0]) if len(places) == 1 else among_bases(path, places, run.place)


def among_bases(
    path: bytes, places: Sequence[tuple[bytes, bytes | None]], name: Callable[[int, bytes], bytes]
) -> bytes:
    """A PATH argument of a run with several bases (and their mountpoints): as ``name`` calls it, see ``bases``."""
    try:
        cwd = os.getcwdb()
    except FileNotFoundError:
        cwd = places[0][0]
    roots = [(number, root) for number, place in enumerate(places) for root in place if root]
    start = cwd if any(_inside(cwd, root) for _, root in roots) else places[0][0]
    full = os.path.normpath(os.path.join(start, path))
    for number, root in roots:
        if _inside(full, root):
            return name(number, full[len(root.rstrip(b"/")) + 1 :])
    bases = ", ".join(home(base) for base, _ in places)
    raise click.BadParameter(f"{home(full)} is not inside one of the bases {bases}")


def below_base(path: bytes, base: bytes, mountpoint: bytes | None) -> bytes:
    """A PATH argument as a path relative to the base.

    An absolute one is below the base (or the mountpoint).  A relative one is relative to the current directory when
    that is inside either, else to the base.  Raises ``click.BadParameter`` for anything outside.
    """
    roots = [root for root in (base, mountpoint) if root]
    try:
        cwd = os.getcwdb()
    except FileNotFoundError:
        cwd = base
    start = cwd if any(_inside(cwd, root) for root in roots) else base
    full = os.path.normpath(os.path.join(start, path))
    for root in roots:
        if _inside(full, root):
            return full[len(root.rstrip(b"/")) + 1 :]
    raise click.BadParameter(f"{home(full)} is not inside the base {home(base)}")


def _inside(path: bytes, root: bytes) -> bool:
    root = root.rstrip(b"/")
    return path == root or path.startswith(root + b"/") or not root


def here() -> bytes:
    """The current directory.  Raises ``BaseError`` when it is not there any more."""
    try:
        return os.getcwdb()
    except FileNotFoundError:
        from snapshots.errors import BaseError

        raise BaseError("the current directory is not there any more; go to another one") from None


def content(path: bytes, hint: str) -> bytes:
    """All of the file that is named for the parameter *hint*; ``-`` is the standard input."""
    try:
        if path == b"-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise click.BadParameter(f"{printable(path)}: {error.strerror}", param_hint=hint) from None
