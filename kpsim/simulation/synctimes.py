"""How long a sync takes, once its delay is drawn (CP-1.2 D11)."""

from collections.abc import Mapping

from kpsim.backends import Transaction
from kpsim.scenario.schema import SyncCost
from kpsim.scenario.sync_costs import SyncCosts


def sync_ns(cost: SyncCost, named: Mapping[str, SyncCosts], base_ns: int, transaction: Transaction) -> int:
    """Return the time of a sync: ``base_ns``, its rules, the rules held, and what its tools take if costs are named."""
    held = sum(count.total for count in transaction.rule_counts)
    rules_ns = cost.per_rule_ns * transaction.rules_written + cost.per_held_rule_ns * held
    tools_ns = 0 if cost.costs is None else named[cost.costs].duration_ns(transaction.calls(), cost.iptables)
    return base_ns + rules_ns + tools_ns
