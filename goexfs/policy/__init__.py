"""What a run may see and write, and how much: rules as values, read from TOML and explained.

Pure, with no filesystem of its own: what the rules mean for a request is enforced by ``goexfs.overlay`` (``guard``).
"""
