"""Chains and affinity sets of service ports that are gone: emptied or deleted at once, deleted for good later (NFT-8.8).

Kernels before 6.2 notice late that a deleted element no longer leads to a chain. So a chain is emptied in the sync that
no longer needs it, and deleted by a transaction of its own that a later sync runs first.
"""

from collections.abc import Iterator

from kpsim.backends.nftables import names
from kpsim.ruleset import Chain, Set, Table, TableKey
from kpsim.ruleset.operations import Operation, Verb
from kpsim.units import SECOND_NS

_REST_NS = SECOND_NS  #: a chain must have been stale for longer


class StaleObjects:
    """What a kube-proxy process knows of chains and affinity sets that no service port uses."""

    def __init__(self, key: TableKey) -> None:
        self._key = key
        self._since_ns: dict[str, int] = {}  #: chain → start of the sync that emptied it last
        self._chains_in_use: set[str] = set()
        self._sets_in_use: set[str] = set()
        self._maybe_chains: set[str] = set()  #: that were in use, and may still be in the kernel
        self._maybe_sets: set[str] = set()

    def use(self, chains: tuple[str, ...], sets: tuple[str, ...]) -> None:
        """Notes what a service port uses."""
        self._chains_in_use.update(chains)
        self._sets_in_use.update(sets)

    def leave(self, chains: tuple[str, ...], sets: tuple[str, ...]) -> None:
        """Notes what a service port used. The port may go on using some of it: call :meth:`use` afterwards."""
        self._chains_in_use.difference_update(chains)
        self._sets_in_use.difference_update(sets)
        self._maybe_chains.update(chains)
        self._maybe_sets.update(sets)

    def deletions(self, now_ns: int) -> list[Operation]:
        """The transaction that deletes what has been stale for long enough; empty: none is due."""
        due = sorted(name for name, since_ns in self._since_ns.items() if since_ns < now_ns - _REST_NS)
        for name in due:
            del self._since_ns[name]
        return [Operation(Verb.DELETE, self._key, Chain(name)) for name in due]

    def retire(self, table: Table | None, now_ns: int, *, known: bool) -> Iterator[Operation]:
        """What empties stale chains, then deletes stale affinity sets. ``known``: ``table`` is as this process left it."""
        if table is None:
            return
        if known:
            chains = self._maybe_chains.union(self._since_ns)
            sets = self._maybe_sets
        else:
            chains = set(filter(names.is_service_chain, table.chains))
            sets = set(filter(names.is_affinity_set, table.sets))
        for name in self._chains_in_use.intersection(self._since_ns):
            if name in table.chains:
                del self._since_ns[name]
        for name in sorted(chains - self._chains_in_use):
            if name in table.chains:  # another program may have deleted it since
                self._since_ns[name] = now_ns
                yield Operation(Verb.FLUSH, self._key, Chain(name))
        for name in sorted(sets - self._sets_in_use):
            yield Operation(Verb.DELETE, self._key, Set(name=name))
        self._maybe_chains, self._maybe_sets = set(), set()

    def forget(self) -> None:
        """Does what follows a failed transaction."""
        self._since_ns.clear()
