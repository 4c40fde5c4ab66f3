"""How far a merge came that died after its commit point.

Owns the reading of its slots. Every operation on names changes what is in them, in its own way in its own phase, so
they tell which was the last one, without anything being written down on the way. Pure but for the questions that it
asks.
"""

from collections.abc import Callable

from snapshots.merging.course import Course
from snapshots.merging.plan import Aside, Link, Replace, SetAttrs, Unlock
from snapshots.merging.staging import DETACH


def position(
    course: Course, phase: bytes, slots: dict[bytes, tuple[int, int]], is_linked: Callable[[bytes, bytes], bool]
) -> int:
    """How many operations of the plan are done.

    Setting attributes leaves no trace: all of it is taken to be still to do (or to undo), which does no harm.
    ``is_linked`` says whether two paths of the new tree are one file.
    """
    plan = course.plan
    if phase == DETACH:
        unlocks = sum(isinstance(op, Unlock) for op in plan.detach)
        asides = sum(op.slot in slots for op in plan.detach if isinstance(op, Aside))
        return 0 if not asides and not course.backward else unlocks + asides
    structure = [op for op in plan.attach if not isinstance(op, SetAttrs)]
    done = 0
    for op in structure:
        if isinstance(op, Link):
            is_done = op.slot in slots or is_linked(op.path, structure[done + 1].path)
        elif isinstance(op, Replace):
            is_done = slots.get(op.slot) == course.swaps[op.slot]
        else:
            is_done = op.slot not in slots
        if not is_done:
            break
        done += 1
    if done == len(structure) and course.backward:
        return len(plan.operations)
    return len(plan.detach) + done
