"""What a sweep found, in words and tables: how a figure varies, and the least value of a dial that suffices."""

from collections.abc import Iterator, Sequence

from kpsim.reports.sentences import TextTable, percent, plural
from kpsim.sweeping.dials import Dial, Setting, Value
from kpsim.sweeping.estimates import Interval, Spread, share_interval
from kpsim.sweeping.goal import Search
from kpsim.sweeping.outcome import Held, Measured, Outcome, seeds_text


def title_line(found: Outcome) -> str:
    """Say what was run: scenario, mode, points and seeds."""
    points = "one point" if len(found.points) == 1 else f"{len(found.points):,} points"
    return f"{found.scenario}: {points}, {seeds_text(found.seeds)}, mode {found.mode}"


def over_seeds_lines(found: Outcome) -> list[str]:
    """Say how far the losses of one scenario vary over its seeds, and in how many of them each expectation holds."""
    point, seeds = found.points[0], plural(len(found.seeds), "seed")
    lines = [f"Connections {figure_sentence(found, 'lost')}"]
    if not point.expectations:
        return lines
    failed = [held for held in point.held() if not held.everywhere]
    if not failed:
        count = len(point.expectations)
        return [
            *lines,
            f"{'The expectation holds' if count == 1 else f'All {count} expectations hold'} in each of {seeds}.",
        ]
    return [*lines, *(f"{held.text} holds in {held.holds} of {seeds}." for held in failed)]


def figure_sentence(found: Outcome, name: str) -> str:
    """Say how a figure varies over the seeds at the first point."""
    spread = found.points[0].spread(name)
    return f"{name} is undefined in all seeds." if spread is None else spread_sentence(spread, name)


def spread_sentence(found: Spread, what: str = "lost") -> str:
    """Say how a figure varies over the seeds, without presenting one of them as the answer."""
    if found.count == 1:
        return f"{what} {amount(found.most)} with one seed, which does not say how far other seeds are from it."
    if found.least == found.most:
        return f"{what} {amount(found.most)} in each of {plural(found.count, 'seed')}."
    text = (
        f"{what} {amount(found.least)} to {amount(found.most)} over {plural(found.count, 'seed')}: median {amount(found.median)}, "
        f"mean {amount(found.mean)} ({interval_text(found.mean_interval)})"
    )
    return f"{text}; {nothing_text(found)}."


def nothing_text(found: Spread) -> str:
    """Say in how many seeds a figure is zero."""
    return f"nothing in {found.zeros:,} of {plural(found.count, 'seed')}" if found.zeros else "in no seed nothing"


def amount(value: float) -> str:
    """Format a figure with thousands separators; a fraction has three significant digits."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval_text(interval: Interval | None) -> str:
    """``95 %: 1.2 to 3.4``, of the mean."""
    return "–" if interval is None else f"95 %: {amount(interval.low)} to {amount(interval.high)}"


def points_table(found: Outcome) -> TextTable:
    """One point a row: the dials, what is lost over the seeds, other headline figures, conditions."""
    others = [name for name in found.headline if name != "lost"]
    conditions = any(point.expectations for point in found.points)
    headings = (
        *(dial.label for dial in found.dials), "lost: mean", "95 %", "least", "median", "most", "none in", *(f"{name}: mean" for name in others),
        *(("expectations hold in",) if conditions else ()), *((f"{found.goal.text} in",) if found.goal is not None else ()),
    )  # fmt: skip
    rows = tuple(tuple(_cells(found, point, others, conditions)) for point in found.points)
    return TextTable(headings, rows, frozenset(range(len(headings))))


def _cells(found: Outcome, point: Measured, others: Sequence[str], conditions: bool) -> Iterator[str]:
    yield from (value.text for value in point.values)
    lost = point.spread("lost")
    if lost is None:
        yield from ("–",) * 6
    else:
        interval = lost.mean_interval
        yield amount(lost.mean)
        yield "–" if interval is None else f"{amount(interval.low)} to {amount(interval.high)}"
        yield from (amount(value) for value in (lost.least, lost.median, lost.most))
        yield f"{lost.zeros} of {lost.count}"
    for name in others:
        spread = point.spread(name)
        yield "undefined" if spread is None else ("≥ " if point.is_bound(name) else "") + amount(spread.mean)
    if conditions:
        yield _of(point.all_held())
    if found.goal is not None:
        yield _of(point.reaches(found.goal))


def _of(held: Held) -> str:
    return f"{held.holds} of {held.seeds}"


# ------------------------------------------------------------------------------------------------------------- answers


def answer_lines(found: Outcome) -> list[str]:
    """Say what suffices: the least value of the first dial for each combination of the others, and which dials change nothing."""
    return [*_what_suffices(found), *_idle_lines(found)]


def _idle_lines(found: Outcome) -> Iterator[str]:
    for place, dial in enumerate(found.dials if found.goal is None else ()):
        figures: dict[Setting, set[str]] = {}
        for point in found.points:
            others = point.values[:place] + point.values[place + 1 :]
            figures.setdefault(others, set()).add(repr([sorted(each.items()) for each in point.figures]))
        if len(dial.values) > 1 and all(len(each) == 1 for each in figures.values()):
            yield f"{dial.path} makes no difference here: every figure is the same at each of its values."


def _what_suffices(found: Outcome) -> list[str]:
    if not found.dials:
        lost = found.points[0].spread("lost")
        return [] if lost is None else [f"Connections {spread_sentence(lost)}"]
    seeds = len(found.seeds)
    if found.goal is not None:
        return [*_search_lines(found), _certainty(seeds)]
    what = f"loses nothing in {seeds} of {plural(seeds, 'seed')}" if seeds > 1 else "loses nothing with the one seed"
    dial = found.dials[0]
    if not dial.numeric:
        good = [_setting_text(found.dials, point.values) for point in found.points if _nothing_lost(point)]
        return [f"{what}: {'; '.join(good)}." if good else f"No point {what}.", *([_certainty(seeds)] if good else [])]
    enough: list[str] = []
    lines: list[str] = []
    for others, line in _lines_of(found):
        least = next((point for point in line if _nothing_lost(point)), None)
        at = _at(found.dials[1:], others)
        if least is None:
            best = min(line, key=_mean)
            lines.append(
                f"No {dial.label} from {line[0].values[0].text} to {line[-1].values[0].text} {what}{at}; fewest at {best.values[0].text}: "
                f"{amount(_mean(best))} on average."
            )
            continue
        value = least.values[0]
        enough.append(f"{dial.label + ' ' if not enough else ''}{value.text}{at}")
        later = [point for point in line[line.index(least) :] if not _nothing_lost(point)]
        if later:
            lines.append(
                f"Not monotone{at}: {value.text} {what}, but {later[0].values[0].text} loses {amount(_mean(later[0]))} on average."
            )
    if enough:
        lines = [f"Least that {what}: {', '.join(enough)}.", *lines, _certainty(seeds)]
    return lines


def _search_lines(found: Outcome) -> Iterator[str]:
    assert found.goal is not None
    dial, goal, seeds = found.dials[0], found.goal.text, len(found.seeds)
    all_of = f"in {seeds} of {plural(seeds, 'seed')}"
    for search in found.searches:
        at = _at(found.dials[1:], search.others)
        ends = f"from {search.low.text} to {search.high.text}"
        if search.against is not None:
            good, bad = search.against
            yield (
                f"{dial.label} is not monotone{at}: {goal} holds {all_of} at {good.text} and not at {bad.text}, so bisection finds no answer; run "
                f"the values without --goal."
            )
        elif search.value is None:
            yield f"{goal} holds {all_of} at neither end {ends}{at}."
        elif search.everywhere:
            yield f"{goal} holds {all_of} at both ends {ends}{at}: the least is {search.low.text}."
        else:
            word = "Greatest" if search.falling else "Least"
            yield f"{word} {dial.label} for which {goal} holds {all_of}{at}: {search.value.text} (not {_next(search)})."
    yield f"This assumes that {dial.label} is monotone: that what holds at the answer holds at everything beyond it, too."


def _next(search: Search) -> str:
    return search.next_failing.text if search.next_failing is not None else ""


def _certainty(seeds: int) -> str:
    """Say what agreement of all seeds is worth."""
    low = share_interval(seeds, seeds).low
    return f"{seeds} of {plural(seeds, 'seed')} mean that at least {percent(low)} of all seeds do so (95 %, Wilson)."


def _lines_of(found: Outcome) -> Iterator[tuple[Setting, list[Measured]]]:
    """Yield the points along the first dial, in its order, for each combination of the others."""
    lines: dict[Setting, list[Measured]] = {}
    for point in found.points:
        lines.setdefault(point.values[1:], []).append(point)
    for others, line in lines.items():
        yield others, sorted(line, key=lambda point: point.values[0].number or 0.0)


def _nothing_lost(point: Measured) -> bool:
    lost = point.spread("lost")
    return lost is not None and lost.most == 0


def _mean(point: Measured) -> float:
    lost = point.spread("lost")
    return 0.0 if lost is None else lost.mean


def _at(dials: Sequence[Dial], values: Sequence[Value]) -> str:
    return f" at {_setting_text(dials, values)}" if dials else ""


def _setting_text(dials: Sequence[Dial], values: Sequence[Value]) -> str:
    return ", ".join(f"{dial.label} {value.text}" for dial, value in zip(dials, values, strict=True))
