"""The table of nftables mode, which a kube-proxy that starts in another mode deletes (I-18, NFT-8.14)."""

from dataclasses import replace

from kpsim.programmed import Programmed
from kpsim.ruleset import Ruleset, Space, TableKey

NFTABLES_TABLE = "kube-proxy"


def without_nftables(held: Programmed) -> Programmed:
    """What the kernel holds once kube-proxy's table of the family is gone."""
    key = TableKey(Space.of(held.family), NFTABLES_TABLE)
    tables = held.ruleset.tables
    if key not in tables:
        return held
    return replace(held, ruleset=Ruleset(held.family, tables.delete(key), held.ruleset.made))
