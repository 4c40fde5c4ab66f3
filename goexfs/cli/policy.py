"""``goexfs policy``: which rules there are, and which of them decides for a path.

Owns the options that other commands take for a policy (``policy_options``), how rules are shown, and the one line at
the beginning of a run.  Main thread only.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.output import command_line, count, home, note, print_json, print_table, printable, quoted
from goexfs.cli.params import ANY_PATH, RUN, Size, below_base, json_option

if TYPE_CHECKING:
    from goexfs.policy.effective import PolicyWishes
    from goexfs.policy.matching import Finding
    from goexfs.policy.rules import Policy, Waiting
    from goexfs.session import RunHandle

NAMES_SHOWN = 6
TELL_SECONDS = 0.5

_OPTIONS = (
    click.option(
        "--policy", "policy_files", metavar="FILE", multiple=True, type=ANY_PATH,
        help="Rules for what CMD may see, write and use (repeatable).",
    ),
    click.option("--hide", metavar="PATTERN", multiple=True, help="Hide what matches, as in .gitignore (repeatable)."),
    click.option("--show", metavar="PATTERN", multiple=True, help="Show what a rule would hide or mask (repeatable)."),
    click.option("--no-default-policy", is_flag=True, help="Without the built-in rules and those of your policy.toml."),
    click.option(
        "--canary", "canaries", metavar="PATH", multiple=True, type=ANY_PATH,
        help="Put a fake secret there; a merge that carries it is refused (repeatable).",
    ),
)  # fmt: skip

POLICY = ("policy_files", "hide", "show", "no_default_policy", "canaries")
"""The parameters that ``policy_options`` adds."""


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wishes_of(
    *, policy_files: tuple[bytes, ...] = (), hide: tuple[str, ...] = (), show: tuple[str, ...] = (),
    no_default_policy: bool = False, canaries: tuple[bytes, ...] = (),
) -> "PolicyWishes | None":  # fmt: skip
    """What these options come to; None when none was given."""
    if not (policy_files or hide or show or no_default_policy or canaries):
        return None
    from goexfs.policy.effective import PolicyWishes

    return PolicyWishes(policy_files, hide, show, canaries, not no_default_policy)


def say_what_is_hidden(run: "RunHandle") -> None:
    """One line with what of the base the run does not see; nothing when that is nothing."""
    found = run.survey
    parts = [f"hidden from the run: {_listed(found.hidden)}"] if found.hidden else []
    parts += [f"masked: {_listed(found.masked)}"] if found.masked else []
    if parts:
        more = "" if found.complete else ", and what matches deeper down"
        note(f"{'; '.join(parts)}{more} (goexfs policy check PATH says why)")
    canaries = run.policy.canaries
    if canaries:
        note(f"canaries: {_listed(tuple(canary.path for canary in canaries))}")


def say_who_read_canaries(run: "RunHandle") -> None:
    """One line for each canary that was read, with the command that did."""
    if not run.policy.canaries:
        return
    from snapshots.entries import NOBODY

    processes = run.log().processes
    for read in run.reads():
        if read.identity == NOBODY:
            process = processes.get(read.process)
            by = command_line(process.command) if process is not None else "?"
            note(f"the canary {quoted(read.path)} was read by: {by}")


def _listed(paths: tuple[bytes, ...]) -> str:
    shown = ", ".join(quoted(path) for path in paths[:NAMES_SHOWN])
    return shown + (f" and {len(paths) - NAMES_SHOWN} more" if len(paths) > NAMES_SHOWN else "")


@click.group("policy", short_help="What runs may see and write, and which rule says so.")
def policy_command() -> None:
    """What runs may see, write and use, and which rule decides.

    The rules come from goexfs itself, from your own policy.toml (in ~/.config/goexfs), from .goexfs.toml in the base,
    from --policy FILE and from --hide and --show; the later decide.  docs/policy.md describes the files.
    """


_base_option = click.option("--base", type=ANY_PATH, metavar="DIR", help="For new runs over it (default: here).")
_run_option = click.option("--run", "ref", metavar="RUN", type=RUN, help="For this run, as it began.")


@policy_command.command("check", short_help="Say which rule decides for a path.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=ANY_PATH)
@_run_option
@_base_option
@policy_options
@json_option
def check_command(
    paths: tuple[bytes, ...], ref: str | None, base: bytes | None, as_json: bool, **options: Any
) -> None:
    """Say what holds for each PATH, and which rule of which file decides that.

    A PATH need not exist; one that ends with a slash is a directory.
    """
    root, mountpoint, policy = _policy(ref, base, options)
    answers = [_answer(policy, root, mountpoint, path) for path in paths]
    if as_json:
        print_json({"paths": [fields for _, fields in answers]})
        return
    for lines, _ in answers:
        for line in lines:
            click.echo(line)


def _policy(ref: str | None, base: bytes | None, options: dict[str, Any]) -> "tuple[bytes, bytes | None, Policy]":
    """The base, where its run is mounted, and the policy that is asked about."""
    if ref is not None:
        if base is not None or any(options.values()):
            raise click.UsageError("--run asks about a run as it began: leave the other options out")
        import goexfs

        with goexfs.open_store(create=False) as store:
            run = store.run(ref)
            return run.base, run.record.mountpoint, run.policy
    from goexfs.session import checks, policing

    root = checks.usable_base(base or b".")
    return root, None, policing.begin(root, wishes_of(**options))


def _answer(policy: "Policy", root: bytes, mountpoint: bytes | None, path: bytes) -> tuple[list[str], dict[str, Any]]:
    from goexfs.policy.matching import Matcher
    from goexfs.policy.rules import Kind
    from snapshots.names import text_fields

    below = below_base(path, root, mountpoint)
    is_dir = path.endswith(b"/") or os.path.isdir(os.path.join(root, below))
    canary = next((canary for canary in policy.canaries if canary.path == below), None)
    findings = Matcher(policy).explain(below, is_dir=is_dir) if below else []
    holding = {finding.kind for finding in findings if finding.holds}
    last = {finding.kind: finding for finding in findings if finding.path == below}
    holding -= {kind for kind, finding in last.items() if not finding.holds and kind is not Kind.HIDE}
    name = quoted(below or b".")
    words = [_WORDS[kind] for kind in Kind if kind in holding] or ["seen and writable"]
    if canary is not None:
        words = ["a canary"]
    lines = [f"{name}: {', '.join(words)}"]
    lines += [f"  {_reason(finding, below)}" for finding in findings]
    fields = {
        **text_fields("path", below),
        "canary": canary is not None,
        **{kind.value: kind in holding for kind in Kind},
        "rules": [
            {"kind": f.kind.value, "holds": f.holds, "source": f.source.name, "pattern": f.pattern,
             **text_fields("matches", f.path)}
            for f in findings
        ],
    }  # fmt: skip
    return lines, fields


_WORDS = {"hide": "hidden", "mask": "masked", "read_only": "read-only", "no_delete": "cannot be deleted"}


def _reason(finding: "Finding", path: bytes) -> str:
    verb = finding.kind.value if finding.holds else f"no {finding.kind.value}"
    where = "" if finding.path == path else f", which matches {quoted(finding.path)}/"
    return f"{verb}: {printable(finding.pattern)} in {printable(finding.source.name)}{where}"


@policy_command.command("show", short_help="List the rules.")
@_run_option
@_base_option
@policy_options
@json_option
def show_command(ref: str | None, base: bytes | None, as_json: bool, **options: Any) -> None:
    """List the rules and limits of new runs over a base, or of a run; the later ones are the stronger."""
    from goexfs.policy.rules import LIMITS, Kind
    from snapshots.names import text_fields

    root, _, policy = _policy(ref, base, options)
    rows = [
        (kind.value, pattern, source.name)
        for source in policy.sources
        for kind in Kind
        for pattern in source.patterns(kind)
    ]
    limits = [(name, *found) for name in LIMITS if (found := policy.limit(name)) is not None]
    if as_json:
        print_json({
            **text_fields("base", root),
            "rules": [{"kind": kind, "pattern": pattern, "source": source} for kind, pattern, source in rows],
            "limits": [
                {"limit": name, "most": limit.most, "then": limit.then, "source": source.name}
                for name, limit, source in limits
            ],
            "canaries": [text_fields("path", canary.path) for canary in policy.canaries],
        })  # fmt: skip
        return
    click.echo(f"{count(len(rows), 'rule')} for {home(root)}:")
    shown = [(kind, printable(pattern), printable(source)) for kind, pattern, source in rows]
    print_table(("RULE", "PATTERN", "FROM"), shrink=("FROM",), rows=shown)
    for name, limit, source in limits:
        click.echo(f"limit: {name} {limit.most}, then {limit.then} ({printable(source.name)})")
    for canary in policy.canaries:
        click.echo(f"canary: {quoted(canary.path)}")


_limit_option = click.option(
    "--limit", "limit", type=click.Choice(["bytes", "files", "deletions", "open_files"]), default=None,
    help="This one (default: all that something waits for).",
)  # fmt: skip


@policy_command.command("allow", short_help="Let go on what waits at a limit.")
@click.argument("ref", metavar="RUN", type=RUN)
@_limit_option
@click.option("--most", type=Size(), metavar="N", help="The limit from now on (default: as much again).")
@json_option
def allow_command(ref: str, limit: str | None, most: int | None, as_json: bool) -> None:
    """Let the operations of RUN go on that wait at a limit, and raise the limit."""
    _decide(ref, limit, as_json, allow=True, most=most)


@policy_command.command("deny", short_help="Refuse what waits at a limit.")
@click.argument("ref", metavar="RUN", type=RUN)
@_limit_option
@json_option
def deny_command(ref: str, limit: str | None, as_json: bool) -> None:
    """Let the operations of RUN fail that wait at a limit, and all later ones that go over it."""
    _decide(ref, limit, as_json, allow=False)


def _decide(ref: str, limit: str | None, as_json: bool, *, allow: bool, most: int | None = None) -> None:
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        limits = run.allow(limit or "", most=most) if allow else run.deny(limit or "")
        if as_json:
            print_json({"limits": [{"limit": name, "most": one.most, "then": one.then} for name, one in limits]})
            return
        for name, one in limits:
            note(f"run {run.record.label}: {name} up to {one.most}, then {one.then}")


def waiting_line(run: "RunHandle") -> str | None:
    """What of a run waits for a decision, in one line; None when nothing does."""
    return _waiting(run.waiting, run.record.label)


def _waiting(waiting: "Iterable[Waiting]", label: str) -> str | None:
    parts = [f"{one.operation} at the limit of {one.most} {one.limit.replace('_', ' ')}" for one in waiting]
    return f"{'; '.join(parts)} (goexfs policy allow {label}, or goexfs policy deny {label})" if parts else None


_EACH = {"bytes": "byte", "files": "new file", "deletions": "deletion", "open_files": "open file"}


def decide(waiting: "Waiting", still: "Callable[[], bool]") -> bool | int | None:
    """Ask the user about what waits at a limit, while the command has the terminal: see ``Session.exec``."""
    from goexfs.cli.typed import typed

    process = f" of process {waiting.pid}" if waiting.pid else ""
    more = f" ({waiting.requests} operations wait)" if waiting.requests > 1 else ""
    line = (
        f"goexfs: the run waits: {waiting.operation}{process} would go beyond "
        f"{count(waiting.most, _EACH.get(waiting.limit, waiting.limit))}{more}"
    )
    lines = [line]
    while True:
        answer = typed(lines, "allow as many again? [y]es, [n]o, nor what comes after, or the new limit: ", still=still)
        if answer is None:
            return None
        if answer.lower() in ("y", "yes"):
            return True
        if answer.lower() in ("n", "no"):
            return False
        try:
            most = Size().convert(answer, None, None)
        except click.BadParameter:
            most = 0
        if most > waiting.used:
            return most
        lines = [f"the answer is y, n, or a number above {waiting.used}, such as {2 * waiting.most or 10}"]


@contextmanager
def telling_what_waits(run: "RunHandle") -> Iterator[None]:
    """Say on stderr when something begins to wait, while a command runs and nobody is there to be asked."""
    if not run.policy.pauses:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(run.waiting_now(), run.record.label, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(look: "Callable[[], Iterable[Waiting]]", label: str, over: threading.Event) -> None:
    """In a thread of its own."""
    said: str | None = None
    while not over.wait(TELL_SECONDS):
        line = _waiting(look(), label)
        if line is not None and line != said:
            note(f"run {label} waits: {line}")
        said = line
