"""Notebooks by cell: what was written in each, apart from what it printed.

Owns the pairing of cells: by their ids where all have one, else by their text.  A notebook is JSON with a list of
cells, and the standard library reads that; the hunks of a cell come from libgit2.  Pure but for what it reads; belongs
to the thread of the sources.
"""

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from goexfs.views.sources import Source
from snapshots.review.libgit2 import compared

LARGEST = 16 << 20
"""Bytes above which a notebook is not parsed."""
MOST_CELLS = 5000

Cell = dict[str, Any]


def lines(old: Source | None, new: Source | None) -> Iterator[str] | None:
    """Which cells came, went and changed; None when it is no notebook of two that can be compared."""
    before, after = (None if source is None else json.loads(source.whole(LARGEST)) for source in (old, new))
    if not all(book is None or _is_notebook(book) for book in (before, after)):
        return None
    return _compared(before or {"cells": []}, after or {"cells": []})


def _is_notebook(book: Any) -> bool:
    cells = book.get("cells") if isinstance(book, dict) else None
    return isinstance(cells, list) and len(cells) <= MOST_CELLS and all(isinstance(cell, dict) for cell in cells)


def _compared(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    said = False
    for line in _cells(before["cells"], after["cells"]):
        said = True
        yield line
    keys = [key for key in sorted(before.keys() | after.keys()) if key != "cells"]
    different = [key for key in keys if before.get(key) != after.get(key)]
    if different:
        yield "@@ notebook @@"
        for key in different:
            for sign, book in (("-", before), ("+", after)):
                if key in book:
                    yield f"{sign}{key}: {json.dumps(book[key], ensure_ascii=False)[:400]}"
    elif not said:
        yield "@@ notebook @@"
        yield " no cell differs: only how the file is written"


def _cells(old: list[Cell], new: list[Cell]) -> Iterator[str]:
    by_id = all(isinstance(cell.get("id"), str) for cell in (*old, *new))
    before, after = ([_key(cell, by_id) for cell in cells] for cells in (old, new))
    for tag, a, a_end, b, b_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        pairs = min(a_end - a, b_end - b) if tag == "equal" or (tag == "replace" and not by_id) else 0
        for step in range(pairs):
            yield from _pair(a + step, b + step, old[a + step], new[b + step])
        for number in range(a + pairs, a_end):
            yield f"@@ cell {number + 1} removed ({_type(old[number])}) @@"
            yield from (f"-{line}" for line in _source(old[number]).splitlines())
        for number in range(b + pairs, b_end):
            yield f"@@ cell {number + 1} added ({_type(new[number])}) @@"
            yield from (f"+{line}" for line in _source(new[number]).splitlines())


def _key(cell: Cell, by_id: bool) -> str:
    return str(cell["id"]) if by_id else f"{_type(cell)} {_source(cell)}"


def _pair(a: int, b: int, old: Cell, new: Cell) -> Iterator[str]:
    if old == new:
        return
    where = f"cell {b + 1}" if a == b else f"cell {a + 1} -> {b + 1}"
    yield f"@@ {where} ({_type(new)}) @@"
    if _type(old) != _type(new):
        yield from (f"-type: {_type(old)}", f"+type: {_type(new)}")
    yield from _text(_source(old), _source(new))
    if old.get("metadata") != new.get("metadata"):
        yield f"-metadata: {json.dumps(old.get('metadata'), ensure_ascii=False)[:400]}"
        yield f"+metadata: {json.dumps(new.get('metadata'), ensure_ascii=False)[:400]}"
    if old.get("outputs") != new.get("outputs"):
        yield f"-{_outputs(old)}"
        yield f"+{_outputs(new)}"
    elif old.get("execution_count") != new.get("execution_count"):
        yield " run again, with the same outputs"


def _text(old: str, new: str) -> Iterator[str]:
    if old == new:
        return
    before, after = (text.encode("utf-8", "surrogatepass") for text in (old, new))
    for hunk in compared(before, after).hunks:
        for line in hunk.lines:
            if line.origin in " -+":
                yield line.origin + line.raw_content.decode("utf-8", "replace").rstrip("\n")


def _outputs(cell: Cell) -> str:
    outputs = cell.get("outputs")
    if not isinstance(outputs, list) or not outputs:
        return "no outputs"
    kinds = sorted({str(output.get("output_type")) for output in outputs if isinstance(output, dict)})
    return f"outputs: {len(outputs)} ({', '.join(kinds)}), {len(json.dumps(outputs)):,} bytes"


def _type(cell: Cell) -> str:
    return str(cell.get("cell_type", "?"))


def _source(cell: Cell) -> str:
    source = cell.get("source", "")
    return "".join(map(str, source)) if isinstance(source, list) else str(source)
