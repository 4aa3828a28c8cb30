"""What held up the news that lost connections wanted, as a sentence and a table."""

from collections import Counter
from collections.abc import Sequence

from kpsim.reports.held_up import HELD_MEANING, Held, HeldUp, count_held
from kpsim.reports.sentences import TextTable, instant
from kpsim.simulation.runlog import RunLog


def held_sentence(log: RunLog) -> str:
    """Say at which stages the changes were that would have saved the lost connections. Empty if none was lost."""
    total: Counter[Held] = sum(count_held(log).values(), Counter())
    if not total:
        return ""
    ranked = sorted(Held, key=lambda held: -total[held])
    timely = [f"{HELD_MEANING[held]} ({total[held]:,})" for held in ranked if held.of_time and total[held]]
    others = [f"{HELD_MEANING[held]} ({total[held]:,})" for held in ranked if not held.of_time and total[held]]
    late, rest = sum(total[held] for held in Held if held.of_time), "; ".join(others)
    if not timely:
        return f"No loss was a matter of time: {rest}."
    stages = "; ".join(timely)
    if others:
        return f"A matter of time were {late:,} of {total.total():,} losses: {stages}. The others: {rest}."
    return (
        f"All {late:,} losses were a matter of time: {stages}."
        if late > 1
        else f"The loss was a matter of time: {stages}."
    )


def held_table(groups: Sequence[HeldUp]) -> TextTable:
    """What each stage, and each other reason, cost each node and service port."""
    rows = tuple(
        (
            HELD_MEANING[g.held], f"{g.connections:,}", g.service, g.node or "(no node)", g.cause.value or "–",
            instant(g.start_ns), instant(g.end_ns),
        )
        for g in groups
    )  # fmt: skip
    return TextTable(
        ("what held it up", "lost", "service", "node", "cause", "first", "last"), rows, frozenset({1, 5, 6})
    )
