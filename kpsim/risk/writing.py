"""Writes an assessment: text for people, Markdown for pages, JUnit's XML for pipelines."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple
from xml.etree import ElementTree

from kpsim.errors import printable
from kpsim.risk.rules import RULES
from kpsim.risk.verdicts import Assessment, Finding, Left, Verdict

_WIDTH = 120


def text(found: Assessment) -> str:
    """The verdicts, each with why and what helps, and below what the numbers rest on."""
    return (
        "\n".join(
            [*_head(found), *(line for verdict in found.verdicts for line in _verdict(verdict)), "", *_foot(found)]
        )
        + "\n"
    )


def _head(found: Assessment) -> Iterator[str]:
    yield counts(found)
    yield ""


def counts(found: Assessment) -> str:
    """Such as ``3 of 12 Services are at risk; 2 are not judged.``"""
    total, risky = len(found.verdicts), len(found.at_risk)
    unjudged = sum(each.risk is None for each in found.verdicts)
    more = f"; {unjudged} {'is' if unjudged == 1 else 'are'} not judged" if unjudged else ""
    return f"{risky:,} of {total:,} Service{'' if total == 1 else 's'} {'is' if risky == 1 else 'are'} at risk{more}."


def _verdict(verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.word:<10}  {verdict.service}: {verdict.about}"
    for each in verdict.findings:
        yield from _item("- ", f"{each.words} ({RULES[each.cause].source})")
        yield from _item("  helps: ", each.remedy)
    if verdict.risk and (worst := _worst(verdict)) is not None:
        yield from _item("left: ", worst)
    for note in verdict.notes:
        yield from _item("note: ", note)


def _item(lead: str, words: str) -> list[str]:
    return wrap(
        words, _WIDTH, initial_indent=f"    {lead}", subsequent_indent=" " * (4 + len(lead)), break_on_hyphens=False
    )


def _worst(verdict: Verdict) -> str | None:
    """What the worst drain, node and zone leave, in words."""
    found: dict[str, Left] = {}
    for each in verdict.left:
        if each.event not in found or each.during < found[each.event].during:
            found[each.event] = each
    parts = [
        f"{each.during} of {each.before} with {'zone ' if event == 'zone lost' else ''}{each.subject} "
        f"{event.removeprefix('node ').removeprefix('zone ')}"
        + (f", {each.after} after its pods were replaced" if each.after > each.during else "")
        for event, each in found.items()
        if each.before
    ]
    return "; ".join(parts) or None


def _foot(found: Assessment) -> Iterator[str]:
    yield "These figures rest on:"
    for line in found.assumed:
        yield from _item("", line)


def markdown(found: Assessment) -> str:
    """A table of the verdicts, a section for each Service at risk, and what the numbers rest on."""
    lines = [
        "# Services at risk",
        "",
        counts(found),
        "",
        "| Service | verdict | why | helps |",
        "| --- | --- | --- | --- |",
    ]
    for each in found.verdicts:
        why = each.why or "; ".join(each.notes if each.risk is None else ())
        lines.append(f"| {cell(each.service)} | {each.word} | {cell(why)} | {cell(each.remedy)} |")
    lines += ["", "These figures rest on:", "", *(f"- {line}" for line in found.assumed)]
    return "\n".join(lines) + "\n"


def cell(words: str) -> str:
    """Words that may stand in a cell of a Markdown table."""
    return words.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def junit(found: Assessment) -> str:
    """A test case for each Service; one at risk fails, one that is not judged is skipped."""
    return suite(
        "risk",
        [
            Case(each.service, each.risk, each.why, [_line(finding) for finding in each.findings], each.notes)
            for each in found.verdicts
        ],
    )


class Case(NamedTuple):
    """The verdict on a Service, as a test case of JUnit."""

    service: str
    risk: bool | None  #: None: there is no verdict; ``notes`` say why
    why: str
    details: Sequence[str]
    notes: Sequence[str]


def suite(command: str, cases: Sequence[Case]) -> str:
    """JUnit's XML: a Service at risk fails, one without a verdict is skipped."""
    failed, skipped = (sum(each.risk is risk for each in cases) for risk in (True, None))
    root = ElementTree.Element(
        "testsuite", name=f"kpsim {command}", tests=str(len(cases)), failures=str(failed), errors="0", skipped=str(skipped)
    )  # fmt: skip
    for each in cases:
        case = ElementTree.SubElement(root, "testcase", classname=f"kpsim.{command}", name=printable(each.service))
        if each.risk:
            failure = ElementTree.SubElement(case, "failure", message=printable(each.why))
            failure.text = "\n".join(map(printable, each.details))
        elif each.risk is None:
            ElementTree.SubElement(case, "skipped", message=printable("; ".join(each.notes)))
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def _line(finding: Finding) -> str:
    return f"{finding.words} ({RULES[finding.cause].source}); helps: {finding.remedy}"
