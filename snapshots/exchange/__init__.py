"""What a run changed, in the forms that other tools know: patches and mail, archives, layers, overlay directories.

Each form is written by a module of its own from one reading of a diff (``layers``), and read by the same module into
``arrivals``.  Nothing in here knows a run or writes to a base.
"""
