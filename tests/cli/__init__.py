"""Tests of the command line: printing, statuses, and the real command on real mounts."""
