"""The command line: one module per theme, each command parse, call, print.

Knows everything below it; nothing imports it.  Start-up time is part of the interface: this package imports nothing,
``main`` starts what takes longest, ``group`` imports click, and a theme is imported when one of its commands is asked
for.
"""
