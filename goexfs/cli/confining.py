"""The options that say what a command may do: ``--rw``, ``--ro``, ``--cow``, ``--net``, ``--env``, ``--preset``, ….

Owns the options, and putting presets and options together.  What they mean is the session's.  Main thread only.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from goexfs.cli.output import home, note, quoted
from goexfs.cli.params import ANY_PATH, Size

if TYPE_CHECKING:
    from goexfs.session import Session
    from goexfs.session.confinement import Confinement

NAMES_SHOWN = 6


class Confined(NamedTuple):
    """What the options of a command line come to."""

    confinement: "Confinement"
    bases: tuple[bytes, ...]
    """further bases"""
    usual_bases: tuple[bytes, ...]
    """those of presets: not wanted where they are in a base already"""


def _list_presets(ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    if "list" not in names or ctx.resilient_parsing:
        return names
    from goexfs.cli.output import home, print_table, printable
    from goexfs.session import presets

    rows = [(printable(name), printable(preset.description), home(os.fsencode(file)))
            for name, file, preset in presets.available()]  # fmt: skip
    print_table(("PRESET", "ABOUT", "FILE"), rows, shrink=("ABOUT",))
    raise click.exceptions.Exit(0)


_OPTIONS: Sequence[Callable[[Any], Any]] = (
    click.option("--rw", metavar="PATH", multiple=True, type=ANY_PATH, help="Host path CMD may write to (repeatable)."),
    click.option(
        "--ro", metavar="PATH", multiple=True, type=ANY_PATH,
        help="Path CMD may only read, also inside a writable one or the base; a hidden one is shown (repeatable).",
    ),
    click.option(
        "--cow", metavar="DIR", multiple=True, type=ANY_PATH,
        help="A further base: its changes are reviewed and merged with the others (repeatable).",
    ),
    click.option("--system", is_flag=True, help="Make the whole of / the base: try an installation, and look."),
    click.option(
        "--net", metavar="off|host|HOST[:PORT],…",
        help="The network of CMD: none, the host's (default), or a way to these hosts only.",
    ),
    click.option(
        "--env", metavar="NAME[=VALUE]", multiple=True,
        help="Give CMD a variable that looks like a secret, or set one (repeatable).",
    ),
    click.option(
        "--preset", metavar="NAME|list", multiple=True, callback=_list_presets, is_eager=True,
        help="What an agent or package manager needs, from a file (repeatable).",
    ),
    click.option(
        "--limit-processes", metavar="N", type=click.IntRange(min=0),
        help="Processes at a time (default: 4096, 0: any)."
    ),
    click.option(
        "--limit-memory", metavar="SIZE", type=Size(),
        help="Memory of CMD and all that it starts; beyond it the kernel kills (default: any)."
    ),
    click.option("--allow-userns", is_flag=True, help="Let CMD make user namespaces (a browser's or its own sandbox)."),
)  # fmt: skip


CONFINING = ("rw", "ro", "cow", "net", "env", "preset", "limit_processes", "limit_memory", "allow_userns")
"""The parameters that ``confined`` takes."""


def confining_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def confined(
    *, rw: tuple[bytes, ...], ro: tuple[bytes, ...], cow: tuple[bytes, ...], net: str | None, env: tuple[str, ...],
    preset: tuple[str, ...], limit_processes: int | None, limit_memory: int | None, allow_userns: bool,
    no_sandbox: bool,
) -> Confined:  # fmt: skip
    """Presets, then options: what both name adds up."""
    from goexfs.session import presets
    from goexfs.session.confinement import Confinement

    if no_sandbox:
        promised = {"--ro": ro, "--net": net not in (None, "host"), "--limit-processes": limit_processes,
                    "--limit-memory": limit_memory, "--cow": cow}  # fmt: skip
        given = [name for name, value in promised.items() if value]
        if given:
            raise click.UsageError(f"without a sandbox there is no {' and no '.join(given)}: leave one of them out")
    chosen = [presets.load(name) for name in preset]
    wishes = Confinement()
    for each in chosen:
        wishes = wishes.and_also(each.confinement)
    own = Confinement.of(
        rw=rw, ro=ro, net=net or "host", env=env, user_namespaces=allow_userns, processes=limit_processes,
        memory=limit_memory,
    )
    merged = wishes.and_also(own)
    if net == "host" and merged.net != own.net:
        raise click.UsageError("--net host takes back what a preset confines; leave the preset or the option out")
    usual = () if no_sandbox else tuple(dict.fromkeys(base for each in chosen for base in each.bases))
    return Confined(merged, cow, usual)


def further_bases(base: bytes, named: Sequence[bytes], usual: Sequence[bytes]) -> list[bytes]:
    """The further bases of a run that begins; refuses those ``named`` that are inside one another, or around one."""
    from goexfs.session.checks import usable_base
    from snapshots.names import is_inside

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


def say_what_is_withheld(session: "Session", confinement: "Confinement") -> None:
    """One line with the variables that the command does not get."""
    names = [quoted(name) for name in session.withheld(confinement)]
    if names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        note(f"not given to the command: {', '.join(names[:NAMES_SHOWN])}{more} (--env NAME gives one)")
