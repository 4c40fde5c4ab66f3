"""The questions of ``goexfs merge -p``: hunk by hunk, with the keys that users of ``git add -p`` know.

Owns the conversation and what was answered; shows nothing that acts on a terminal, whatever the files hold.  Knows no
store: it is given the changes, and its answers are a selection.  Main thread only.
"""

import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import click

from goexfs.cli import summary
from goexfs.cli.dress import dressed
from goexfs.cli.output import count, printable, quoted, styled
from snapshots.layers.basepaths import split as split_path
from snapshots.merging.choosing import Chosen
from snapshots.merging.hunks import RENAME, WHOLE, Hunk, Parts, apply, edited, parts, split, unified
from snapshots.review.changes import Change, Status

HELP = (
    ("y", "merge this {what}"),
    ("n", "do not merge this {what}: it stays in the run"),
    ("q", "quit; merge what was chosen so far"),
    ("a", "merge this {what} and all later ones in the file"),
    ("d", "do not merge this {what} nor any later one in the file"),
    ("r", "do not merge this {what}, and say why: whoever made it can read that"),
    ("j", "leave this {what} undecided, go to the next undecided one"),
    ("J", "leave this {what} undecided, go to the next one"),
    ("k", "leave this {what} undecided, go to the previous undecided one"),
    ("K", "leave this {what} undecided, go to the previous one"),
    ("g", "go to one of this file by its number"),
    ("/", "go to one that matches a regular expression"),
    ("s", "split this hunk into smaller ones"),
    ("e", "edit this hunk by hand"),
    ("p", "print this {what} again"),
    ("?", "print help"),
)
_GUIDE = b"""# ---
# To merge without a '-' line, make it a ' ' line (context).
# To merge without a '+' line, delete it.
# Lines that begin with # are removed.
# If it does not apply, you can edit it again. If all lines are
# removed, the edit is given up and the hunk is left as it is.
"""
_MOST_NAMES = 20


class Rejected(NamedTuple):
    """What was rejected: recorded by the caller."""

    path: bytes
    part: str | None
    reason: str


@dataclass
class _Item:
    """One question."""

    id: str
    what: str
    """``hunk``, ``addition``, ``deletion``, …"""
    hunk: Hunk | None = None
    wanted: bool | None = None
    by_hand: bool = False
    moved: bool = False
    """the base has changed there, too, so that there is nothing to choose from"""


@dataclass
class _File:
    """What is asked about together: one file, or changes that can only be merged as a whole."""

    changes: list[Change]
    parts: Parts | None
    """None for several changes"""
    items: list[_Item] = field(default_factory=list)

    @property
    def change(self) -> Change:
        return self.changes[0]


class _Quit(Exception):
    """No more questions."""


class Questions:
    """One conversation about groups of changes (see ``snapshots.merging.partial.together``)."""

    def __init__(
        self, groups: Sequence[list[Change]], moved: Collection[bytes] = (), *, color: bool,
        place: Callable[[bytes], str],
    ) -> None:  # fmt: skip
        self._files = [_file(group, moved) for group in _worth_asking(groups)]
        self._color = color
        self._place = place
        self.rejected: list[Rejected] = []
        """with reasons, in the order of the answers"""

    def ask(self) -> dict[bytes, Chosen]:
        """Ask until everything is decided; what is to be merged.  The end of input is an Abort: nothing is."""
        try:
            for file in self._files:
                self._header(file)
                self._ask_about(file)
        except _Quit:
            pass
        chosen: dict[bytes, Chosen] = {}
        for file in self._files:
            chosen.update(_chosen(file))
        return chosen

    # -- one file

    def _ask_about(self, file: _File) -> None:
        at, show = 0, True
        while True:
            if file.parts is not None and file.parts.lead == RENAME and file.items[0].wanted is False:
                for item in file.items:  # without its new name there is no place for its hunks
                    item.wanted = False
            if all(item.wanted is not None for item in file.items):
                return
            item = file.items[at]
            if show:
                self._show(file, item)
            show = True
            found = self._answer(file, at)
            key, rest = found[:1], found[1:].strip()
            if key in ("y", "n"):
                item.wanted = key == "y"
                at = _next_open(file, at)
            elif key in ("a", "d"):
                for each in file.items[at:]:
                    if each.wanted is None or each is item:
                        each.wanted = key == "a"
                at = _next_open(file, at)
            elif key == "q":
                raise _Quit
            elif key == "r":
                show = self._reject(file, item, rest)
                at = _next_open(file, at) if show else at
            elif key in ("j", "J", "k", "K", "g", "/"):
                to = self._go(file, at, key, rest)
                at, show = (at, False) if to is None else (to, True)
            elif key == "s" and len(_splits(item)) > 1:
                pieces = _splits(item)
                self._say(f"Split into {len(pieces)} hunks.")
                file.items[at : at + 1] = [_Item(piece.id, "hunk", piece) for piece in pieces]
            elif key == "e" and _can_edit(file, item):
                made = self._edit(file, item)
                if made is not None:
                    item.hunk, item.wanted, item.by_hand = made, True, True
                    at = _next_open(file, at)
            elif key != "p":
                self._help(file, at)
                show = False

    def _keys(self, file: _File, at: int) -> str:
        item, items = file.items[at], file.items
        keys = ["y", "n", "q", "a", "d", "r"]
        open_ones = [n for n, each in enumerate(items) if each.wanted is None and n != at]
        keys += ["j"] * any(n > at for n in open_ones) + ["J"] * (at + 1 < len(items))
        keys += ["k"] * any(n < at for n in open_ones) + ["K"] * (at > 0)
        keys += ["g", "/"] * (len(items) > 1) + ["s"] * (len(_splits(item)) > 1) + ["e"] * _can_edit(file, item)
        return ",".join([*keys, "p", "?"])

    def _answer(self, file: _File, at: int) -> str:
        item = file.items[at]
        number = f"({at + 1}/{len(file.items)}) " if len(file.items) > 1 else ""
        prompt = f"{number}Merge this {item.what} into {self._place(file.change.path)} [{self._keys(file, at)}]? "
        answer = ""
        while not answer:
            answer = _line(styled(prompt, self._color, fg="blue", bold=True))
        if answer[0] not in self._keys(file, at).split(",") and answer[0] in "jJkKg/se":
            self._say("Sorry, there is none." if answer[0] in "jJkKg/" else f"Sorry, cannot {_VERBS[answer[0]]} this.")
            return self._answer(file, at)
        return answer

    def _go(self, file: _File, at: int, key: str, rest: str) -> int | None:
        items = file.items
        if key in "jJ":
            return next((n for n in range(at + 1, len(items)) if key == "J" or items[n].wanted is None), None)
        if key in "kK":
            return next((n for n in range(at - 1, -1, -1) if key == "K" or items[n].wanted is None), None)
        if key == "g":
            if not rest:
                for number, item in enumerate(items, 1):
                    mark = {True: "+", False: "-", None: " "}[item.wanted]
                    self._say(f"{mark}{number:3}: {self._first_line(file, item)}")
                rest = _line("go to which one? ")
            if not rest.isdecimal() or not 1 <= int(rest) <= len(items):
                self._say(f"There is no number {printable(rest)}; the last one is {len(items)}.")
                return None
            return int(rest) - 1
        pattern = rest or _line("search for regex? ")
        try:
            wanted = re.compile(pattern)
        except re.error as error:
            self._say(f"{printable(pattern)} is no regular expression: {error}")
            return None
        for step in range(1, len(items) + 1):
            to = (at + step) % len(items)
            hunk, found = items[to].hunk, file.parts
            if hunk is not None and found is not None and found.text is not None:
                text = b"\n".join(unified(found.text, hunk)).decode("utf-8", "replace")
                if wanted.search(text):
                    return to
        self._say("No hunk matches.")
        return None

    def _reject(self, file: _File, item: _Item, reason: str) -> bool:
        reason = reason or _line("why? (empty: not rejected) ")
        if not reason:
            return False
        item.wanted = False
        part = None if item.id == WHOLE or file.parts is None else item.id
        self.rejected += [Rejected(change.path, part, reason) for change in file.changes]
        return True

    # -- editing

    def _edit(self, file: _File, item: _Item) -> Hunk | None:
        """The hunk as the person edits it; None when that is given up."""
        assert file.parts is not None
        assert file.parts.text is not None
        assert item.hunk is not None
        text = file.parts.text
        shown = b"# Manual hunk edit: see below for a quick guide.\n"
        shown += b"".join(line + b"\n" for line in unified(text, item.hunk)) + _GUIDE
        while True:
            back = _in_editor(shown)
            lines = [line for line in back.split(b"\n") if not line.startswith((b"#", b"@@"))]
            if lines and not lines[-1]:
                lines.pop()
            if not lines:
                return None
            try:
                return edited(text, item.hunk, lines)
            except ValueError as error:
                self._say(f"The edited hunk does not apply: {error}.")
            if _line('Edit again (saying "no" discards the edit!) [y/n]? ').lower().startswith("n"):
                return None
            shown = back

    # -- showing

    def _header(self, file: _File) -> None:
        change = file.change
        if file.parts is not None and file.parts.hunks:
            old = change.old_path or change.path
            for line in (f"--- {_side(b'a/', old)}", f"+++ {_side(b'b/', change.path)}"):
                self._say(styled(line, self._color, bold=True))
            return
        for shown in summary.name_status(file.changes[:_MOST_NAMES], color=self._color):
            click.echo(shown, nl=False)
        if len(file.changes) > _MOST_NAMES:
            self._say(f"… and {count(len(file.changes) - _MOST_NAMES, 'more change')}, which belong together")

    def _show(self, file: _File, item: _Item) -> None:
        text = file.parts.text if file.parts is not None else None
        if item.moved:
            self._say("The base has changed there, too: it is merged three-way, as a whole.")
            return
        if item.hunk is not None and text is not None:
            shown = b"".join(line + b"\n" for line in unified(text, item.hunk))
            for line in dressed([shown], color=self._color):
                click.echo(line, nl=False)
            return
        before, after = file.change.before, file.change.after
        if before is None and after is not None and after.target is not None:
            self._say(f"-> {quoted(after.target)}")
        if before is None or after is None or len(file.changes) > 1:
            return
        if file.change.status is Status.RENAMED:
            self._say(f"renamed from {quoted(file.change.old_path or b'')}")
        for name, old, new in (
            ("mode", f"{before.mode:06o}", f"{after.mode:06o}"), ("owner", before.uid, after.uid),
            ("group", before.gid, after.gid),
        ):  # fmt: skip
            if old != new:
                self._say(f"{name} {old} -> {new}")
        if "xattrs" in file.change.attrs:
            self._say("extended attributes changed")
        if item.id == WHOLE and before.target is not None and after.target is not None:
            self._say(f"-> {quoted(before.target)} becomes -> {quoted(after.target)}")
        elif item.id == WHOLE and file.change.content_changed:
            self._say(f"binary or large: {before.size} -> {after.size} bytes")

    def _first_line(self, file: _File, item: _Item) -> str:
        text = file.parts.text if file.parts is not None else None
        if item.hunk is None or text is None:
            return item.what
        lines = unified(text, item.hunk)
        changed = next((line for line in lines[1:] if line[:1] in b"+-"), b"")
        return f"{lines[0].decode()} {printable(changed[:60])}"

    def _help(self, file: _File, at: int) -> None:
        keys = self._keys(file, at).split(",")
        for key, text in HELP:
            if key in keys:
                self._say(styled(f"{key} - {text.format(what=file.items[at].what)}", self._color, fg="red"))

    def _say(self, text: str) -> None:
        click.echo(text)


_VERBS = {"s": "split", "e": "edit"}
_NAMES = {
    Status.ADDED: "addition", Status.DELETED: "deletion", Status.RENAMED: "renaming", Status.MODIFIED: "change",
    Status.TYPE_CHANGED: "replacement", Status.ATTRS_CHANGED: "change of attributes",
}  # fmt: skip


def _side(prefix: bytes, path: bytes) -> str:
    """As in a patch; a path in a further base is an absolute one."""
    return quoted(path if path.startswith(b"/") else prefix + path)


def _worth_asking(groups: Sequence[list[Change]]) -> list[list[Change]]:
    """Without new directories that have something in them: they come along with that."""
    full: set[bytes] = set()
    for group in groups:
        for change in group:
            above = split_path(change.path)[0]
            while change.after is not None and above and above not in full:
                full.add(above)
                above = split_path(above)[0]
    return [group for group in groups if len(group) > 1 or group[0].status is not Status.ADDED
            or group[0].path not in full]  # fmt: skip


def _file(group: list[Change], moved: Collection[bytes]) -> _File:
    change = group[0]
    if len(group) == 1 and change.path in moved and change.status is not Status.DELETED:
        return _File(group, None, [_Item(WHOLE, _NAMES[change.status], moved=True)])
    if len(group) > 1:
        return _File(group, None, [_Item(WHOLE, "group of changes" if len({c.status for c in group}) > 1 else
                                         f"group of {_NAMES[change.status]}s")])  # fmt: skip
    found = parts(change)
    file = _File(group, found)
    if found.lead == WHOLE:
        # Something new to read is shown, and can be edited; what goes needs no showing line by line.
        new = found.text is not None and change.status is Status.ADDED and bool(found.text.edits)
        hunk = Hunk(WHOLE, found.text.edits) if new and found.text is not None else None
        file.items.append(_Item(WHOLE, _NAMES[change.status], hunk))
    elif found.lead is not None:
        file.items.append(_Item(found.lead, "renaming" if found.lead == RENAME else "change of attributes"))
    file.items += [_Item(hunk.id, "hunk", hunk) for hunk in found.hunks]
    return file


def _splits(item: _Item) -> tuple[Hunk, ...]:
    return split(item.hunk) if item.hunk is not None and item.id != WHOLE and not item.by_hand else ()


def _can_edit(file: _File, item: _Item) -> bool:
    return item.hunk is not None and file.parts is not None and not item.by_hand


def _next_open(file: _File, at: int) -> int:
    later = [*range(at + 1, len(file.items)), *range(at + 1)]
    return next((n for n in later if file.items[n].wanted is None), at)


def _chosen(file: _File) -> dict[bytes, Chosen]:
    wanted = [item for item in file.items if item.wanted]
    if not wanted:
        return {}
    if file.parts is None:
        return {change.path: Chosen(frozenset(parts(change).ids)) for change in file.changes}
    ids = frozenset(item.id for item in wanted)
    if not any(item.by_hand for item in wanted):
        return {file.change.path: Chosen(ids)}
    assert file.parts.text is not None
    edits = [edit for item in wanted if item.hunk is not None for edit in item.hunk.edits]
    lead = ids & {file.parts.lead or ""} - {WHOLE}
    return {file.change.path: Chosen(lead, apply(file.parts.text, edits))}


def _line(prompt: str) -> str:
    """One line that was typed; the end of input is an Abort, as Ctrl-C is."""
    click.echo(prompt, nl=False)
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        click.echo()
        _abort()
    return line.strip()


def _abort() -> NoReturn:
    raise click.Abort


def _in_editor(data: bytes) -> bytes:
    """What the person's editor, which is the one that git takes, leaves of a text."""
    import shlex
    import subprocess
    import tempfile

    names = ("GOEXFS_EDITOR", "GIT_EDITOR", "VISUAL", "EDITOR")
    editor = next((os.environ[name] for name in names if os.environ.get(name)), "vi")
    with tempfile.NamedTemporaryFile(prefix="goexfs-hunk-", suffix=".diff") as file:
        file.write(data)
        file.flush()
        try:
            # Through the shell, as git does: the variable may hold options and quotes.
            done = subprocess.run(f"{editor} {shlex.quote(file.name)}", shell=True, check=False)
            with open(file.name, "rb") as again:  # an editor may have replaced the file
                return again.read() if done.returncode == 0 else b""
        except OSError as error:
            click.echo(f"The editor cannot be started: {error.strerror}.")
            return b""
