"""A content that the policy gives instead of the base's: of a masked file, or of a canary.

Owns these bytes, which never change.  Event-loop thread only.
"""

from goexfs.policy.rules import Canary


class Given:
    """What such a file shows."""

    __slots__ = ("base_size", "canary", "data")

    def __init__(self, data: bytes, base_size: int, canary: Canary | None = None) -> None:
        self.data = data
        self.base_size = base_size
        """of the base file that it stands for"""
        self.canary = canary

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of it."""
        return self.data[offset : offset + length]

    @property
    def size(self) -> int:
        """Its length."""
        return len(self.data)

    def blocks(self) -> int:
        """``st_blocks``."""
        return (len(self.data) + 511) // 512
