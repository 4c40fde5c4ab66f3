"""``goexfs discard``: throw away what runs changed.

Owns the one verb that cannot be taken back.  Main thread only.
"""

from typing import Literal

import click

from goexfs.cli.effectoptions import compensate_option
from goexfs.cli.output import count, note, print_json
from goexfs.cli.params import RUN, json_option


@click.command("discard", short_help="Throw away what runs changed.")
@click.argument("refs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@compensate_option
@json_option
def discard_command(refs: tuple[str, ...], compensate: "Literal['sandbox', 'outside', 'skip']", as_json: bool) -> None:
    """Throw away what each RUN changed; its base is not touched.

    What it did outside the filesystem is undone, what it deferred is dropped.

    All are looked up before the first one goes: one that is not known leaves the others as they were.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        runs = {handle.id: handle for handle in map(store.run, refs)}
        for run in runs.values():
            label = run.record.label
            run.discard(undo=compensate)
            if not as_json:
                note(f"discarded {label}")
    if as_json:
        print_json({"discarded": list(runs)})
    elif len(runs) > 1:
        note(f"{count(len(runs), 'run')} discarded")
