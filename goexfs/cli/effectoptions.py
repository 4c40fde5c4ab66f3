"""What other commands let their user say about effects.

Owns the options of ``run``, ``merge`` and ``discard``, and the question about what cannot be undone.  Imports nothing
that takes time: ``goexfs run`` pays for it.  Main thread only.
"""

from typing import TYPE_CHECKING

import click

from goexfs.cli.typed import typed

if TYPE_CHECKING:
    from snapshots.storage.effects import Effect

effects_option = click.option(
    "--effects", "effects", type=click.Choice(["run", "skip"]),
    help="What becomes of pending effects: run them after the merge, or leave them pending.",
)  # fmt: skip
compensate_option = click.option(
    "--compensate", type=click.Choice(["sandbox", "outside", "skip"]), default="sandbox", show_default=True,
    help="Where what the run did outside is undone: as the run was confined, with your own rights, or not at all.",
)  # fmt: skip


def allow(effect: "Effect") -> bool:
    """Ask the user about what a run wants to do now and cannot be undone."""
    from goexfs.cli import effecttext
    from goexfs.cli.output import printable

    lines = [
        "goexfs: the run wants to do this NOW, and it cannot be undone:",
        f"  {effecttext.what(effect.request, whole=True)}",
        *([f"  note: {printable(effect.note)}"] if effect.note else []),
    ]  # fmt: skip
    answer = typed(lines, "allow it? Type yes, or anything else for no: ")
    return answer is not None and answer.lower() == "yes"
