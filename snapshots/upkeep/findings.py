"""What the checker can find wrong with a store: the kinds, a finding, a report.

Owns the list of what must be true of a store, one ``Kind`` each, and what repair does about it.
Values only: any thread.
"""

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What can be wrong."""

    DATABASE = "database"
    """SQLite finds its file inconsistent; repair makes the indexes anew"""
    OBJECT_DAMAGED = "object-damaged"
    """bytes that do not have the hash or size in the record; repair sets them aside"""
    OBJECT_MISSING = "object-missing"
    """a large object without its file; repair notes that it is lost"""
    OBJECT_UNHELD = "object-unheld"
    """an object that neither an entry uses nor a collection would find; repair makes it a candidate"""
    ENTRY_UNDECODABLE = "entry-undecodable"
    """a record that cannot be read; repair sets it aside, so that the rest of the run can be used"""
    ENTRY_INVALID = "entry-invalid"
    """extents out of order or outside their object, or a content that does not go with the kind; not repaired"""
    ENTRY_CONTENT_LOST = "entry-content-lost"
    """an entry whose object is missing or damaged; only a person can decide (discard, or write the file again)"""
    ENTRY_UNREACHABLE = "entry-unreachable"
    """an entry that no name leads to; repair drops it"""
    LINK_DANGLING = "link-dangling"
    """a name that leads to no entry, or in what is not a directory; repair drops it"""
    USES = "uses"
    """the table of used objects disagrees with the entries; repair writes it anew"""
    HISTORY = "history"
    """a snapshot of what never was, or a fork of it; repair forgets such a snapshot, and a fork nobody has"""
    PART = "part"
    """what a run did in a further base outlived the run, or the other way round; repair makes the first a run"""
    RUN_RECORD = "run-record"
    """the record of a run cannot be read; not repaired"""
    RUN_DIRECTORY = "run-directory"
    """a live run without its directory or a part of it, or a directory without its run; repair makes or removes it"""
    EFFECT = "effect"
    """an effect without its run, one that was left on the way, or a transaction that a database holds for nobody;
    repair drops the first, says of the second what is known, and has the third rolled back"""
    ORPHAN_FILE = "orphan-file"
    """a file that no record knows; repair removes it if it was ours and sets it aside otherwise"""
    MODE = "mode"
    """a file or directory with another mode than it must have; repair sets it"""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    kind: Kind
    what: str
    """the object (hex), ``run <id>``, ``run <id> inode <number>`` or path it is about"""
    detail: str
    repaired: bool = False


class FsckReport(msgspec.Struct, frozen=True):
    """What was looked at, and what was found."""

    findings: tuple[Finding, ...]
    objects: int
    object_bytes: int
    runs: int
    entries: int

    @property
    def clean(self) -> bool:
        """Nothing is wrong (or everything that was has been repaired)."""
        return all(finding.repaired for finding in self.findings)
