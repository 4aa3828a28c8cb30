"""What a sync in nftables mode has nft do (NFT-8.4)."""

from collections.abc import Iterable, Iterator, Sequence

from kpsim.backends.nftables.elements import CONTAINERS
from kpsim.backends.work import Act, Call, Calls, Tool
from kpsim.ruleset import Dispatch, Dnat, Lookup, Rule, Set, Table
from kpsim.ruleset.operations import Operation


def maps_written(operations: Iterable[Operation]) -> int:
    """Return how many sets and maps stand in the rules of a transaction. Each becomes an object of the kernel."""
    return sum(_in_rule(each.object) for each in operations if isinstance(each.object, Rule))


def _in_rule(rule: Rule) -> int:
    found = 0
    for part in rule.body:
        match part:
            case Dispatch(map=Set()) | Lookup(set=Set()):
                found += 1
            case Dnat(mapped=mapped) if mapped is not None and isinstance(mapped.map, Set):
                found += 1
            case _:
                pass
    return found


#: a table, and how many sets and maps stand in its rules if that is known
Held = tuple[Table | None, int | None]


def calls_of(transactions: Sequence[Sequence[Operation]], before: Held, after: Held, *, full: bool) -> Calls:
    """Return the calls of one sync: two listings, those of elements in a full one, and ``nft -f`` for each transaction.

    ``before`` and ``after`` are what the kernel holds. A transaction without operations is no call.
    """
    return tuple(_calls(transactions, before, after, full=full))


def _calls(transactions: Sequence[Sequence[Operation]], before: Held, after: Held, *, full: bool) -> Iterator[Call]:
    found = before[0]  # kube-proxy lists before it writes
    maps = _sets(before)
    chains = 0 if found is None else len(found.chains)
    yield Call(Tool.NFT, Act.READ, times=2, held=chains + maps, pairs=maps * maps)
    if full:
        sets = [found.sets[name] for name in CONTAINERS if name in found.sets] if found is not None else []
        yield Call(Tool.NFT, Act.READ, times=len(CONTAINERS), held=sum(len(each.elements) for each in sets))
    left = after[0]
    held = _sets(after) + (0 if left is None else len(left.chains))
    for operations in filter(None, transactions):
        written = maps_written(operations)
        # the maps of rules that are flushed stay until the transaction ends, so new ones come on top
        yield Call(
            Tool.NFT,
            Act.WRITE,
            written=len(operations),
            held=held,
            pairs=written * maps + written * written // 2,
        )


def _sets(held: Held) -> int:
    """Return how many sets and maps a kernel has, with name or without."""
    table, in_rules = held
    if table is None:
        return 0
    if in_rules is None:
        in_rules = sum(_in_rule(rule) for chain in table.chains.values() for rule in chain.rules)
    return in_rules + len(table.sets)
