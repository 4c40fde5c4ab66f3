"""Every error the library raises, in one tree.

Owns the exception types and nothing else; knows no terminal and no exit code (the command line keeps one
table from these types to exit statuses, see ``goexfs.cli.output``).  A message says what happened, to what,
and what to do next, in one line.
"""


class GoexfsError(Exception):
    """Base of every error with a message meant for a person: one line, no traceback."""


class StoreError(GoexfsError):
    """The store as a whole cannot be used."""


class StoreMissing(StoreError):
    """There is no store at the given place and creating it was not asked for."""


class StoreTooNew(StoreError):
    """The store was written by a later version of goexfs."""


class StoreDamaged(StoreError):
    """The store's database or layout is not what it must be; ``goexfs fsck`` says what is wrong."""


class StoreFull(StoreError):
    """The disk (or quota) below the store has no room."""


class StoreLimit(StoreFull):
    """The store has come to the limit of its size, and nothing in it may go without a person's word."""


class StoreUnusable(StoreError):
    """The store's directory cannot be created, read or written (permissions, read-only disk, not a directory)."""


class ObjectMissing(StoreDamaged):
    """An object that an entry names is not in the store."""


class RunError(GoexfsError):
    """Something about one run."""


class RunUnknown(RunError):
    """No run answers to this id, prefix or name."""


class RunAmbiguous(RunError):
    """More than one run answers to this prefix or name."""


class RunExists(RunError):
    """A run of this name exists already."""


class RunBusy(RunError):
    """The run is mounted (or being merged), and the verb needs it not to be."""


class RunState(RunError):
    """The run is in a state that the verb does not apply to (merged, discarded)."""


class SnapshotUnknown(RunError):
    """The run has no snapshot of this name or number."""


class SnapshotExists(RunError):
    """The run has a snapshot of this name already."""


class HistoryGone(RunError):
    """The run's state at this position, or a content in it, is not kept (any more)."""


class EffectError(RunError):
    """An effect cannot be recorded, found, changed or carried out."""


class EffectsPending(EffectError):
    """The verb would have to decide about effects that are pending, and was not told what to do with them."""


class EffectFailed(EffectError):
    """An effect, or a compensation, was tried and did not succeed, or nobody knows whether it did."""


class BaseError(GoexfsError):
    """The base cannot be used: missing, not a directory, unreadable, or not the one the run was made over."""


class BaseChanged(BaseError):
    """A base file is needed as it was when the run copied it up, and is not that any more."""


class Conflict(GoexfsError):
    """A merge was refused because the base moved; ``conflicts`` lists one value per path."""

    def __init__(self, message: str, conflicts: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.conflicts = conflicts


class MergeError(GoexfsError):
    """A merge failed on the way and was rolled back; the message names the path and the reason."""


class SelectionRefused(MergeError):
    """What was chosen of a run makes no sense alone, or is not there (any more); nothing was applied."""


class NothingChosen(SelectionRefused):
    """The run changed nothing of what was chosen."""


class VerificationFailed(MergeError):
    """The command that was to verify the result of a merge did not succeed; nothing was applied."""


class ExportFailed(GoexfsError):
    """Changes could not be written in another form, or to that place."""


class ImportRefused(GoexfsError):
    """What was to be imported cannot be read, does not fit the base, or is not safe; nothing was imported."""
