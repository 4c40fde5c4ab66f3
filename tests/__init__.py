"""The tests of goexfs: real mounts, real processes, real files; nothing is mocked where the real thing can run."""
