"""Transactions that a database holds ready for effects that nobody will come back to.

Owns the comparison of what the databases of the user hold with what the ledgers say.  A name is recorded before there
is such a transaction, so every one of this store's is found.  Belongs to the thread of the store.
"""

from typing import NamedTuple

from goexfs.effects import connections, postgresql
from snapshots.errors import EffectError
from snapshots.storage.effects import Effect, Sql, State
from snapshots.storage.ledger import all_effects
from snapshots.storage.store import Store


class Stray(NamedTuple):
    """A prepared transaction of an effect that is settled, or a database that cannot be asked."""

    database: str
    gid: str
    """empty: it could not be asked"""
    detail: str
    effect: Effect


def strays(store: Store) -> list[Stray]:
    """All of them; databases are only asked if an effect of this store ever had a transaction in them."""
    named: dict[str, list[Effect]] = {}
    for effect in all_effects(store):
        if isinstance(effect.request, Sql) and effect.gid:
            named.setdefault(effect.request.database, []).append(effect)
    found = []
    for name, effects in named.items():
        held = {State.PREPARED, State.RUNNING, State.PLANNED, State.UNKNOWN, State.FAILED}
        try:
            gids = set(postgresql.prepared(connections.database(name).address))
        except EffectError as error:
            if any(effect.state is State.PREPARED for effect in effects):
                found.append(Stray(name, "", str(error), effects[0]))
            continue
        for effect in effects:
            if effect.gid in gids and effect.state not in held:
                found.append(Stray(name, effect.gid, f"the effect is {effect.state}", effect))
            elif effect.gid not in gids and effect.state is State.PREPARED:
                found.append(Stray(name, effect.gid, "the database does not hold it any more", effect))
    return found


def release(stray: Stray) -> bool:
    """Have the database let it go; whether that is done."""
    if not stray.gid:
        return False
    try:
        address = connections.database(stray.database).address
    except EffectError:
        return False
    return postgresql.roll_back(address, stray.effect).state is State.DONE
