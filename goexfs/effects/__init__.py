"""Carrying out what a run asked for outside the filesystem, and undoing it.

``execute`` goes through the deferred effects of a merged run, ``compensate`` through the compensations of one that is
given up; ``commands``, ``web``, ``sqlite``, ``postgresql`` and ``calls`` do one request each; ``connections`` is what
the user configured and the run never sees.  Which effects there are, and how far each came, is
``snapshots.storage.ledger``'s.

No module here knows a sandbox, a mount or a terminal.
"""
