"""Names, attributes and open files as an ordinary user in a mount of the user's own, against the native filesystem.

The kernel lets nobody else into such a mount, root included, so the tests of the other modules are called in a child
that has become the user; they are those that need no other user.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.posix import test_attributes as attributes
from tests.posix import test_names as names
from tests.posix import test_open_files as files
from tests.posix.conftest import copy_up, fill
from tests.support.mounts import Mounted, mounted
from tests.support.users import OrdinaryUser

KINDS = ("native", "base", "upper", "copied")
CHECKS: tuple[Callable[[Path], None], ...] = (
    names.test_rename_replaces, names.test_rename_refuses, names.test_rename_of_two_names_of_one_file_does_nothing,
    names.test_noreplace_and_exchange, names.test_hard_links_across_directories,
    names.test_unlinking_one_name_of_an_unchanged_hard_link, names.test_symlinks, names.test_link_counts_of_directories,
    names.test_hard_links_of_the_base_stay_one_file, names.test_removal_refuses,
    names.test_a_directory_made_anew_is_empty, names.test_a_kind_is_replaced_by_another,
    names.test_names_of_any_bytes, names.test_a_path_deeper_than_path_max, names.test_types_and_numbers_in_a_listing,
    names.test_dot_and_dot_dot, names.test_inotify_tells_of_changes, attributes.test_setting_times,
    attributes.test_times_that_were_set_survive_what_was_written_before, attributes.test_umask,
    attributes.test_extended_attributes_survive_copy_up_and_rename, files.test_exclusive_creation,
    files.test_creation_through_a_dangling_symlink, files.test_opening_with_truncation, files.test_not_following,
    files.test_path_descriptors, files.test_appending, files.test_direct_io,
    files.test_a_mixture_of_direct_and_cached_writes, files.test_reading_and_writing_at_offsets, files.test_vectored_io,
    files.test_a_truncation_does_not_bring_back_what_was_cut_off, files.test_holes_take_no_space,
    files.test_beyond_four_gigabytes, files.test_a_map_outlives_its_descriptor_and_its_name,
    files.test_unlinked_but_open, files.test_an_unlinked_file_is_not_linked_again, files.test_renamed_but_open,
    files.test_renamed_over_while_open, files.test_an_open_directory_that_is_renamed_and_one_that_is_removed,
    files.test_sync, files.test_a_lease,
)  # fmt: skip


@pytest.fixture
def own_mount(area: Path, user: OrdinaryUser, kind: str) -> Iterator[Mounted]:
    """Trees of the user's, one for each check: natively, and below a mount that the user made."""
    for top, kinds in ((area / "native", ("native",)), (area / "base", ("base", "copied"))):
        (top / kind).mkdir(parents=True)
        for number in range(len(CHECKS) if kind in kinds else 0):
            fill(top / kind / f"{number}")
        for path in (top, *top.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    with mounted(area / "base", area, user=user) as mount:
        mount.wait_watched()
        yield mount


def attempt(check: Callable[[Path], None], top: Path, kind: str) -> None:
    """One check in a tree of its own."""
    held = []
    if kind == "upper":
        fill(top)
    elif kind == "copied":
        held = copy_up(top)
    check(top)
    for fd in held:
        os.close(fd)


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_for_root_holds_for_an_ordinary_user(
    own_mount: Mounted, user: OrdinaryUser, area: Path, kind: str
) -> None:
    place = area / "native" if kind == "native" else own_mount.path
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(user.gid)
                os.setuid(user.uid)
            for number, check in enumerate(CHECKS):
                try:
                    attempt(check, place / kind / f"{number}", kind)
                except BaseException:
                    os.write(write, f"{check.__name__}: {traceback.format_exc()[-1500:]}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        failed = said.read()
    os.waitpid(pid, 0)
    assert not failed
