"""A store whose runs end with the test: the one of the sessions' tests."""

from tests.session.conftest import store

__all__ = ["store"]
