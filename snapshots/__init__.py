"""Content store and history of runs: objects, entries, diff, merge, gc, fsck.  Never imports goexfs."""
