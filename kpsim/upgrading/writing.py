"""Writes an upgrade's verdicts: text for people, Markdown for pages, JUnit's XML for pipelines, HTML for notebooks."""

from collections.abc import Iterator
from html import escape
from textwrap import wrap
from typing import Any

from kpsim.drafting.part import listed
from kpsim.risk.writing import Case, cell, suite
from kpsim.upgrading.patches import patch_of
from kpsim.upgrading.search import Tried
from kpsim.upgrading.verdicts import Outcome, Verdict, tried_words

_WIDTH = 120


def counts(found: Outcome) -> str:
    """Such as ``3 of 12 Services lose connections; 2 were not simulated.``"""
    total, risky = len(found.verdicts), len(found.at_risk)
    left_out = sum(each.risk is None for each in found.verdicts)
    more = f"; {left_out} {'was' if left_out == 1 else 'were'} not simulated" if left_out else ""
    return f"{risky:,} of {total:,} Service{'' if total == 1 else 's'} {'is' if risky == 1 else 'are'} at risk{more}."


def text(found: Outcome) -> str:
    """The verdicts, each with why, what was tried, and what helps."""
    lines = [*_head(found), "", *(line for each in found.verdicts for line in _verdict(each)), "", *_foot(found)]
    return "\n".join(lines).rstrip() + "\n"


def _head(found: Outcome) -> Iterator[str]:
    yield counts(found)
    yield from _item("", course_sentence(found), 0)


def course_sentence(found: Outcome) -> str:
    """What was simulated, in words."""
    plan = found.plan
    event = plan.content["events"][0]["rollingUpgrade"]
    share = event["maxUnavailable"]
    once = "one after the other" if share == 1 else f"{share} at once"
    control = f" (with control plane {listed(plan.control_planes)}, which takes pods)" if plan.control_planes else ""
    spared = f"; not {listed(plan.spared)}, as no pods run there" if plan.spared else ""
    seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else "1 seed"
    nodes = f"{len(plan.nodes)} node{'' if len(plan.nodes) == 1 else 's'}"
    return f"{nodes} upgraded {once}{control}{spared}: drained, off for {event['takes']}, back. {found.course.duration_s} s in mode {found.plan.mode}, {seeds}."


def _verdict(verdict: Verdict) -> Iterator[str]:
    if verdict.risk is None:
        yield f"{verdict.word:<13}  {verdict.service}: {'; '.join(verdict.notes)}"
        return
    about = f": {verdict.about}" if verdict.risk else f": {verdict.outcome}"
    yield f"{verdict.word:<13}  {verdict.service}{about}"
    if verdict.risk:
        yield from _item("", verdict.outcome)
    for words in verdict.reasons:
        yield from _item("- ", words)
    for each in verdict.tried:
        yield from _item("tried: ", tried_words(each))
    if verdict.remedy is not None:
        yield from _item("helps: ", verdict.remedy)
    elif verdict.searched:
        yield from _item("helps: ", "nothing of what was tried" if verdict.tried else "no remedy applies")
    for note in verdict.notes:
        yield from _item("note: ", note)


def _item(lead: str, words: str, indent: int = 4) -> list[str]:
    return wrap(
        words, _WIDTH, initial_indent=f"{' ' * indent}{lead}", subsequent_indent=" " * (indent + len(lead)), break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _foot(found: Outcome) -> Iterator[str]:
    if (words := together_sentence(found)) is not None:
        yield from _item("", words, 0)


def together_sentence(found: Outcome) -> str | None:
    """What all remedies together leave; None if none was found."""
    if found.together is None:
        return None
    still = {title: lost for title, lost in found.together.items() if lost}
    if not still:
        return f"With all of these remedies together nothing is lost in {len(found.seeds)} of {len(found.seeds)} seeds."
    return f"With all remedies that were found together, still lost over {len(found.seeds)} seeds: {listed(f'{title} {lost:,}' for title, lost in still.items())}."


def markdown(found: Outcome) -> str:
    """A table of the verdicts, and what all remedies together leave."""
    lines = [
        "# Services in a node upgrade", "", counts(found), course_sentence(found), "",
        "| Service | verdict | lost | why | tried | helps |", "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for each in found.verdicts:
        why = each.why if each.risk is not None else "; ".join(each.notes)
        tried = "; ".join(map(tried_words, each.tried))
        cells = each.service, each.word, each.outcome, why, tried, each.remedy or ""
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    if (words := together_sentence(found)) is not None:
        lines += ["", words]
    if patch := patch_of(found.changes):
        lines += ["", "```yaml", patch.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def junit(found: Outcome) -> str:
    """A test case for each Service; one at risk fails, one that was not simulated is skipped."""
    return suite(
        "upgrade",
        [Case(each.service, each.risk, each.outcome, list(_details(each)), each.notes) for each in found.verdicts],
    )


def _details(verdict: Verdict) -> Iterator[str]:
    yield from verdict.reasons
    yield from map(tried_words, verdict.tried)
    if verdict.searched:
        yield f"helps: {verdict.remedy or 'nothing of what was tried'}"


def html_fragment(found: Outcome) -> str:
    """The verdicts as a table for notebooks."""
    rows = "".join(
        f"<tr><td>{escape(each.service)}</td><td>{each.word}</td><td>{escape(each.outcome)}</td>"
        f"<td>{'<br>'.join(map(escape, each.reasons or each.notes))}</td><td>{escape(each.remedy or '')}</td></tr>"
        for each in found.verdicts
    )
    head = "".join(f"<th>{name}</th>" for name in ("Service", "verdict", "lost", "why", "helps"))
    foot = f"<p>{escape(words)}</p>" if (words := together_sentence(found)) is not None else ""
    return f"<p>{escape(counts(found))} {escape(course_sentence(found))}</p><table><tr>{head}</tr>{rows}</table>{foot}"


def json_of(found: Outcome) -> dict[str, Any]:
    """Plain values: ``services`` with verdicts, losses and what was tried, and how the upgrade went."""
    return {
        "services": [_verdict_json(each) for each in found.verdicts],
        "nodes": list(found.plan.nodes),
        "spared": list(found.plan.spared),
        "seeds": list(found.seeds),
        "duration_seconds": found.course.duration_s,
        "together": None if found.together is None else dict(found.together),
        "patch": patch_of(found.changes) or None,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    if verdict.risk is None:
        return {"service": verdict.service, "risk": None, "about": "", "why": "; ".join(verdict.notes), "remedy": None}
    found, chosen = verdict.spread, verdict.chosen
    interval = found.mean_interval if found is not None else None
    return {
        "service": verdict.service, "risk": verdict.risk, "about": verdict.about, "why": verdict.why, "remedy": verdict.remedy,
        "seconds": round(verdict.seconds, 3), "lost": found.mean if found is not None else 0.0, "sent": verdict.sent / max(verdict.seeds, 1),
        "interval": [interval.low, interval.high] if interval is not None else None,
        "lost_by_seed": list(verdict.lost), "seeds": verdict.seeds, "seeds_lost": verdict.seeds_lost, "stuck": list(verdict.stuck),
        "losses": [each.to_json() for each in verdict.losses],
        "tried": [_tried_json(each) for each in verdict.tried],
        "set": list(chosen.settings) if chosen is not None else [],
        "patch": patch_of(chosen.changes) if chosen is not None else None,
        "notes": list(verdict.notes),
    }  # fmt: skip


def _tried_json(tried: Tried) -> dict[str, Any]:
    lost = tried.left.lost
    return {
        "remedy": tried.attempt.words, "set": list(tried.attempt.settings), "seeds": list(lost), "lost": list(lost.values()),
        "left": sorted(kind.value for _, kind in tried.left.kinds),
    }  # fmt: skip
