"""``--cow DIR``: the further bases of one command, each a run of its own that gets the verdict of the first.

Owns their beginning and their end.  Knows no terminal: the question is ``verdict``'s, and asked once.  Main thread
only.

Before anything is merged every part is checked; then they are merged one after the other.  That is not one step: a
crash between two of them leaves the later ones kept, under their names, and an undo takes back one of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

from goexfs.cli.output import home, note
from snapshots.errors import Conflict, MergeError

if TYPE_CHECKING:
    from goexfs.cli.verdict import Outcome
    from goexfs.session import Completed, RunStore, Session


def further_bases(base: bytes, named: Sequence[bytes], usual: Sequence[bytes]) -> list[bytes]:
    """The further bases of a run that begins; refuses those ``named`` that are inside one another, or around one."""
    from goexfs.session.checks import usable_base
    from goexfs.session.view import is_inside

    seen = [usable_base(base)]
    for other in map(usable_base, named):
        for one in seen:
            if is_inside(other, one) or is_inside(one, other):
                raise click.UsageError(f"--cow {home(other)} and the base {home(one)} are inside one another")
        seen.append(other)
    for other in map(usable_base, usual):
        if not any(is_inside(other, one) or is_inside(one, other) for one in seen):
            seen.append(other)
    return seen[1:]


@contextmanager
def beginning(
    store: "RunStore", session: "Session", bases: Sequence[bytes], command: tuple[str, ...], wish: str | None
) -> "Iterator[list[Session]]":
    """A mounted run for each further base, called after the first run; without a verdict they are kept."""
    on_exit: Literal["keep", "forget"] = "forget" if wish == "discard" else "keep"
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                store.start(base, name=f"{session.id}+{number}", command=command, on_exit=on_exit)
            )
            for number, base in enumerate(bases, 1)
        ]


def review(parts: "Sequence[Session]", wish: str | None) -> tuple[str | None, bool]:
    """Unmount the parts and show what is in each.

    The wish for all, which is to keep when one could not be merged, and whether no part has changes.
    """
    from goexfs.cli import verdict

    if wish == "discard":
        return wish, False
    alone = True
    for part in parts:
        part.keep()
        if changes := part.diff():
            alone = False
            verdict.show_part(part, changes)
            try:
                part.merge(dry_run=True)
            except (Conflict, MergeError) as error:
                note(f"nothing can be merged: in {home(part.base)}, {error}")
                wish = "keep"
    return wish, alone


def settle(parts: "Sequence[Session]", ended: "Completed", first: "Outcome") -> "list[Outcome]":
    """Give every part the verdict of the first run."""
    from goexfs.cli import verdict

    return [verdict.follow(part, ended, first.verdict) for part in parts]


def fields(parts: "Sequence[Session]", outcomes: "Sequence[Outcome]") -> list[dict[str, Any]]:
    """The parts in the JSON document of ``goexfs run``."""
    from goexfs.cli.verdict import outcome_fields

    return [outcome_fields(part, outcome) for part, outcome in zip(parts, outcomes, strict=True)]
