"""Between which zones connections went: the zone of the node where they met the rules by the zone of the endpoint."""

from kpsim.reports.sentences import TextTable, percent
from kpsim.reports.shares import shares_of
from kpsim.simulation.runlog import RunLog


def zones_table(log: RunLog) -> TextTable | None:
    """A row for each zone of clients: connections by zone of the endpoint, and the share that left the zone.

    None if there are fewer than two zones, or no connection between nodes of known zones.
    """
    shares = shares_of(log.connections, log.zones)
    zones = sorted(set(log.zones.values()))
    if len(zones) < 2 or not shares.between_zones:
        return None
    rows = []
    for here in zones:
        counts = [shares.by_zones.get((here, there), 0) for there in zones]
        if sum(counts):
            rows.append((here, *(f"{count:,}" for count in counts), percent(shares.cross_share_from(here))))
    totals = [sum(n for (_, end), n in shares.by_zones.items() if end == there) for there in zones]
    rows.append(("all", *(f"{count:,}" for count in totals), percent(shares.cross_share)))
    headings = ("from zone", *(f"to {zone}" for zone in zones), "left the zone")
    return TextTable(headings, tuple(rows), frozenset(range(1, len(headings))))


def zones_sentence(log: RunLog) -> str:
    """Say how many connections crossed zones."""
    shares = shares_of(log.connections, log.zones)
    return (
        f"{percent(shares.cross_share)} of {shares.between_zones:,} connections that were set up crossed zones: from that of the node"
        " where they met the rules to that of the endpoint."
    )
