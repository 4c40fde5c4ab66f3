"""Keeping a store sound and small: the checker and the collector."""
