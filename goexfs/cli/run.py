"""``goexfs run``, ``mount`` and ``umount``: give a command, or a place, a copy-on-write view of a base.

Owns the options of these three.  Signals, the sandbox and the server process are the session's; what becomes of the
run is ``verdict``'s.  Main thread only.
"""

import os
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal

import click

from goexfs.cli.confining import CONFINING, confined, confining_options, further_bases, say_what_is_withheld
from goexfs.cli.effectoptions import allow, effects_option
from goexfs.cli.output import count, home, note, print_json, size
from goexfs.cli.params import (
    ANY_PATH,
    POINT,
    RUN,
    auto_snapshot_option,
    history_limit_option,
    json_option,
    store_limit_option,
)
from goexfs.cli.policy import (
    POLICY,
    decide,
    policy_options,
    say_what_is_hidden,
    say_who_read_canaries,
    telling_what_waits,
    wishes_of,
)
from snapshots.errors import GoexfsError, RunUnknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from goexfs.session import RunHandle, RunStore, Session

RUN_HELP = "Go on with a kept run, or with a fork of what it was at a point, instead of beginning one."
nested_option = click.option(
    "--allow-nested", is_flag=True, help="Hide a store (or mountpoint) that is inside the base."
)
other_option = click.option("--allow-other", is_flag=True, help="Let other users see the mount.")


@click.command(
    "run",
    short_help="Run a command, then merge, keep or discard what it changed.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--base", type=ANY_PATH, metavar="DIR", help="The directory to run over (default: the current one).")
@click.option("--name", help="A name for the run, to be used like its id.")
@click.option("--run", "ref", metavar="RUN[@POINT]", type=POINT, help=RUN_HELP)
@click.option("--discard", is_flag=True, help="Discard the run at the end: nothing remains.")
@click.option("--keep", is_flag=True, help="Keep the run at the end, without asking.")
@click.option("--merge", is_flag=True, help="Merge the run at the end, whatever the exit status.")
@confining_options
@policy_options
@click.option("--no-sandbox", is_flag=True, help="Run without bubblewrap, in the mount itself.")
@auto_snapshot_option
@history_limit_option
@store_limit_option
@nested_option
@other_option
@effects_option
@json_option
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    command: tuple[str, ...],
    discard: bool,
    keep: bool,
    merge: bool,
    system: bool,
    no_sandbox: bool,
    effects: str | None,
    as_json: bool,
    **beginning: Any,
) -> None:
    """Run CMD with the directory seen through an overlay, then merge, keep or discard what it changed.

    With a terminal and none of --discard, --keep and --merge it asks; without a terminal it keeps.  The exit status
    is the command's.  With --json the last thing on stdout is one JSON document, after whatever CMD printed there.
    """
    import goexfs
    from goexfs.cli import verdict

    wish = _wish(discard=discard, keep=keep, merge=merge)
    limits = confined(**{name: beginning.pop(name) for name in CONFINING}, no_sandbox=no_sandbox)
    if system:
        beginning |= _whole_system(beginning["base"], no_sandbox)
    beginning["policy"] = wishes_of(**{name: beginning.pop(name) for name in POLICY})
    _check_beginning(
        beginning["ref"], base=beginning["base"], name=beginning["name"], policy=beginning["policy"]
    )
    if beginning["ref"] is None:
        _check_places(beginning["base"] or b".", None, beginning["allow_nested"])
    if limits.bases and beginning["ref"] is not None:
        raise click.UsageError("--run goes on with a run and the bases it began with: --cow cannot be given with it")
    own = beginning["base"] or b"."
    further = further_bases(own, limits.bases, limits.usual_bases) if beginning["ref"] is None else []
    with (
        goexfs.open_store() as store,
        _session(store, command, wish, cow=tuple(further), **beginning) as session,
    ):
        say_what_is_hidden(session)
        if not no_sandbox:
            say_what_is_withheld(session, limits.confinement)
        asked = verdict.can_ask()
        with nullcontext() if asked else telling_what_waits(session):
            ended = session.exec(
                command, sandbox=not no_sandbox, confinement=limits.confinement,
                ask=allow if asked else None, decide=decide if asked else None,
            )
        say_who_read_canaries(session)
        say_what_was_refused(session)
        if (use := store.known_use(beginning["store_limit"])).is_near:
            from goexfs.cli.store import say_how_near

            say_how_near(use)
        outcome = verdict.settle(session, wish, ended, want_changes=as_json, effects=effects)
        if as_json:
            print_json(verdict.outcome_fields(session, outcome))
    ctx.exit(outcome.exit_status)


def _whole_system(base: bytes | None, no_sandbox: bool) -> dict[str, Any]:
    """What --system stands for.  Programs that give up root (a package manager's downloads) have to see the mount."""
    if base is not None or no_sandbox:
        raise click.UsageError(f"--system and {'--base' if base is not None else '--no-sandbox'} exclude each other")
    return {"base": b"/", "allow_nested": True, "allow_other": os.geteuid() == 0}


def _wish(**flags: bool) -> str | None:
    wishes = [name for name, given in flags.items() if given]
    if len(wishes) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in wishes)} exclude each other")
    return wishes[0] if wishes else None


def _check_places(base: bytes, mountpoint: bytes | None, allow_nested: bool) -> None:
    """Refuse these places before a store is made, which might be inside the base: a base is not written to."""
    from goexfs.session import checks
    from goexfs.session.home import default_store_path

    place = None if mountpoint is None else os.path.realpath(mountpoint)
    store = os.path.realpath(os.fsencode(default_store_path()))
    checks.hidden_places(checks.usable_base(base), store, place, allow_nested=allow_nested)


def _check_beginning(ref: str | None, **others: object) -> None:
    given = [f"--{name}" for name, value in others.items() if value is not None]
    if ref is not None and "--policy" in given:  # whichever of the options it was
        raise click.UsageError(
            "--run goes on with a run as it is, under the policy that it began with: leave the options of a policy out"
        )
    if ref is not None and given:
        raise click.UsageError(f"--run goes on with a run as it is: {' and '.join(given)} cannot be given with it")


@contextmanager
def _session(
    store: "RunStore",
    command: tuple[str, ...],
    wish: str | None,
    *,
    base: bytes | None,
    name: str | None,
    ref: str | None,
    **options: Any,
) -> "Iterator[Session]":
    """The mounted run.  Left by an exception, one that was kept before is kept again, and one without changes goes."""
    on_exit: Literal["keep", "forget"] = "forget" if wish == "discard" else "keep"
    options = _given(**options)
    with ExitStack() as ends:
        if ref is not None:
            run = ends.enter_context(_going_on(store, ref, options.get("store_limit")))
            session = store.resume(run, command=command, on_exit=on_exit, **options)
        else:
            session = store.start(base or b".", name=name, command=command, on_exit=on_exit, **options)
        ends.enter_context(session)
        try:
            yield session
        except GoexfsError:  # the command was not started
            session.keep()
            if ref is None and not session.number_of_changes:
                session.discard(forget=True)
            raise


@contextmanager
def _going_on(store: "RunStore", ref: str, store_limit: int | None) -> "Iterator[RunHandle]":
    """The run to go on with; of a point of the past a fork, which goes when an error comes before any change."""
    run, at = store.point(ref)
    if at is None:
        yield run
        return
    fork = run.fork(at=at, store_limit=store_limit)
    begun, label = fork.position(None), run.record.label
    note(f"going on in {fork.id}, a fork of what {label} was then; {label} stays as it is")
    try:
        yield fork
    except GoexfsError:
        with suppress(RunUnknown):
            if fork.state == "kept" and fork.position(None) == begun:
                fork.discard(forget=True, undo="skip")
        raise


def say_what_was_refused(run: "RunHandle") -> None:
    """One line when programs found the store full."""
    refused = run.refused_for_room
    if refused is not None:
        click.echo(
            f"goexfs: {count(refused.operations, 'operation')} of the run failed with ENOSPC: the store has come to its"
            f" limit of {size(refused.limit)} (goexfs ls, goexfs gc --dry-run); --store-limit lifts it",
            err=True,
        )


def _given(**options: Any) -> dict[str, Any]:
    """Only what was asked for: a run that goes on keeps the options it began with."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}


@click.command("mount", short_help="Mount a run for an agent that is started some other way.")
@click.option("--run", "ref", metavar="RUN[@POINT]", type=POINT, help=RUN_HELP)
@click.option("--name", help="A name for the run, to be used like its id.")
@click.option("--foreground", "-f", is_flag=True, help="Stay until the run is unmounted; Ctrl-C unmounts it.")
@policy_options
@auto_snapshot_option
@history_limit_option
@store_limit_option
@nested_option
@other_option
@json_option
@click.argument("places", metavar="[BASE] MOUNTPOINT...", nargs=-1, required=True, type=ANY_PATH)
def mount_command(
    places: tuple[bytes, ...], ref: str | None, name: str | None, foreground: bool, as_json: bool, **options: Any
) -> None:
    """Mount a new run over BASE, or with --run a kept one, at the empty directory MOUNTPOINT.

    A run with several bases takes a MOUNTPOINT for each, in the order in which goexfs show lists them.
    For agents that are started some other way.  goexfs umount ends it; the run is kept.
    """
    import goexfs
    from goexfs.cli.store import run_fields

    options["policy"] = wishes_of(**{option: options.pop(option) for option in POLICY})
    _check_beginning(ref, name=name, policy=options["policy"])
    if ref is None:
        if len(places) != 2:
            raise click.UsageError("give a BASE and a MOUNTPOINT, or --run RUN and a MOUNTPOINT for each of its bases")
        _check_places(*places, options["allow_nested"])
    with goexfs.open_store() as store:
        with nullcontext(places[0]) if ref is None else _going_on(store, ref, options["store_limit"]) as what:
            mountpoints = places[1:] if ref is None else places
            run = store.mount(what, *mountpoints, name=name, foreground=foreground, **_given(**options))
        if as_json:
            print_json(run_fields(run))
        else:
            say_what_is_hidden(run)
            at = " and ".join(home(part.record.mountpoint or b"?") for part in run.parts)
            note(f"run {run.record.label} is mounted at {at}")
        if isinstance(run, goexfs.Session):
            _stay(run)


def _stay(run: "Session") -> None:
    """Until somebody unmounts it, or this process is told to end."""
    import signal

    from goexfs.session.errors import ServerError

    def told_to_end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, told_to_end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        run.wait()
    except KeyboardInterrupt:
        run.keep()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if run.state == "crashed":
        run.recover()
        raise ServerError(f"the process that served run {run.record.label} has died; what it had stored is kept")
    note(f"run {run.record.label} is unmounted and kept")


@click.command("umount", short_help="Unmount a run and keep it.")
@click.argument("what", metavar="RUN|MOUNTPOINT", type=RUN)
@click.option("--force", is_flag=True, help="Take the mount away from the processes that use it.")
def umount_command(what: str, force: bool) -> None:
    """Unmount a run and keep it.  Everything written to the mount is in the store when this returns."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = _mounted_run(store, what)
        for holder in run.unmount(force=force):
            note(f"taken away from {holder}")
        note(f"run {run.record.label} is unmounted and kept")


def _mounted_run(store: "RunStore", what: str) -> "RunHandle":
    """The run that is mounted at a place, or that is meant by a reference."""
    try:
        return store.mounted_at(what)
    except RunUnknown as nothing_there:
        if "/" in what or what in (".", ".."):
            raise
        try:
            return store.run(what)
        except RunUnknown:
            if os.path.isdir(what):  # a place was meant
                raise nothing_there from None
            raise
