"""``goexfs merges`` and ``undo``: what was merged, and taking it back.

Owns how merges are listed.  Main thread only.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.effect import tell_undo
from goexfs.cli.effectoptions import compensate_option
from goexfs.cli.interrupted import told_if_interrupted
from goexfs.cli.output import age, count, home, note, print_json, print_table, size
from goexfs.cli.params import here, json_option

if TYPE_CHECKING:
    from goexfs.session import RunStore
    from goexfs.session.merged import Merge
    from snapshots.merging.mergelog import MergeRecord
    from snapshots.merging.undo import UndoResult


@click.command("merges", short_help="List what was merged, and what can be undone.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also what was merged elsewhere.")
@json_option
def merges_command(everything: bool, as_json: bool) -> None:
    """List the merges into the directory you are in, the latest last.

    What they replaced is kept in the store, for the last 200 and up to 2 GiB: the oldest go first.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        merges = store.merges(None if everything else here())
        fields = [_fields(merge) for merge in merges]
        if as_json:
            print_json({"merges": fields})
            return
        rows = [
            [str(merge.record.number), age(merge.record.made_ns), _what(merge.record),
             _bases([each.base for each in (merge.record, *merge.others)]),
             count(field["names"], "name"), size(field["kept_bytes"]), str(field["state"])]
            for merge, field in zip(merges, fields, strict=True)
        ]  # fmt: skip
        if rows:
            print_table(["MERGE", "AGE", "WHAT", "BASE", "CHANGED", "KEPT", "STATE"], rows)
        else:
            note("nothing was merged here" + ("" if everything else "; --all lists merges elsewhere"))


@click.command("undo", short_help="Take a merge back.")
@click.argument("number", metavar="[MERGE]", type=click.IntRange(min=1), required=False)
@click.option("--dry-run", is_flag=True, help="Only say whether it can be done.")
@compensate_option
@json_option
def undo_command(
    number: int | None, dry_run: bool, compensate: str, as_json: bool
) -> None:
    """Bring the base back to what it was before MERGE: the latest into the directory you are in that is not undone.

    Refused, with nothing changed, when what the merge left was changed since. An undo is listed by goexfs merges and
    can be undone too: that is the merge again.  What the run did outside of the files is undone, too, if it said how.
    """
    import goexfs
    from snapshots.errors import Conflict
    from snapshots.merging.undo import latest

    with goexfs.open_store(create=False) as store:
        wanted = number if number is not None else latest(store.store, here())
        try:
            with told_if_interrupted(store, lambda record: record.undoes == wanted):
                result = store.undo(wanted, dry_run=dry_run, compensate="skip")  # the rest once this is said
        except Conflict as error:
            if as_json:
                print_json({"merge": wanted, "undone": False, "undo": None, "conflicts": _conflicts(error.conflicts)})
            raise
        if as_json:
            print_json({
                "merge": wanted, "undone": not dry_run, "undo": result.number, "conflicts": [],
                "run": _given_back(store, result),
            })  # fmt: skip
        elif dry_run:
            click.echo(f"merge {wanted} ({_what(result.undone)}) can be undone in {_bases(result.bases)}")
        else:
            click.echo(
                f"merge {wanted} ({_what(result.undone)}) is undone in {_bases(result.bases)};"
                f" goexfs undo {result.number} brings it back"
            )
            if result.leftover is not None:
                note(f"{home(result.leftover)} could not be moved away; the next goexfs command tries again")
            _say_given_back(_given_back(store, result))
        if not dry_run and compensate != "skip":
            store.take_back_effects(result, outside=compensate == "outside", tell=None if as_json else tell_undo)


def _given_back(store: "RunStore", result: "UndoResult") -> dict[str, Any] | None:
    """What became of the run; None when nothing is known of it."""
    from snapshots.errors import RunUnknown

    if (returning := result.returning) is None:
        return None
    try:
        run = store.run(returning.run_id)
    except RunUnknown:
        return None
    return {
        "id": run.id, "name": run.record.name, "state": run.state, "has_changes": result.gave,
        "why_not": returning.why_not,
    }  # fmt: skip


def _say_given_back(run: dict[str, Any] | None) -> None:
    if run is None:
        return
    label = run["name"] or run["id"]
    if run["why_not"]:
        note(f"run {label} {run['why_not']}")
    elif run["has_changes"]:
        note(f"run {label} has the changes again: goexfs diff {label}")
    elif run["state"] == "kept":
        note(f"the rest stays in {label}")


def _bases(bases: Sequence[bytes]) -> str:
    return " and ".join(map(home, bases))


def _what(record: "MergeRecord") -> str:
    if record.undoes is None:
        return f"run {record.label}"
    return f"undo of {record.undoes}"


def _fields(merge: "Merge") -> dict[str, Any]:
    from snapshots.names import text_fields

    record, by = merge.record, merge.undone_by
    parts = (record, *merge.others)
    if by is not None:
        state = f"undone by {by}"
    else:
        state = "can be undone" if merge.can_be_undone else "too old to undo"
    return {
        "merge": record.number, "run": record.run_id, "undoes": record.undoes, "undone_by": by,
        **text_fields("base", record.base), "bases": [text_fields("base", each.base) for each in parts],
        "made_ns": record.made_ns, "names": sum(each.paths for each in parts),
        "kept_bytes": sum(each.kept_bytes for each in parts), "state": state,
    }  # fmt: skip


def _conflicts(conflicts: tuple[object, ...]) -> list[dict[str, Any]]:
    from snapshots.merging.plan import PathConflict
    from snapshots.names import text_fields

    return [
        {**text_fields("path", conflict.path), "kind": str(conflict.kind), "message": conflict.message}
        for conflict in conflicts
        if isinstance(conflict, PathConflict)
    ]
