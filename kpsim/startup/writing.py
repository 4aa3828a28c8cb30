"""Writes an account: with rich for a terminal or a log, as Markdown, as JSON."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kpsim.errors import printable
from kpsim.startup.account import Account, Row
from kpsim.startup.conditions import Condition, Severity
from kpsim.startup.remarks import Kind, Remark
from kpsim.startup.steps import Change, Step

if TYPE_CHECKING:
    from rich.console import Console

_MOST_NAMES = 6  #: nodes that are named of many
_TONES = {Severity.FATAL: "red", Severity.INEFFECTIVE: "yellow", Severity.WARNING: "magenta"}
_STYLES = {Kind.RISK: "yellow", Kind.COSTS: "cyan", Kind.NOTE: "dim"}
_HEADS = {
    Severity.FATAL: "Why it ends",
    Severity.INEFFECTIVE: "Asked for, and without effect",
    Severity.WARNING: "What kube-proxy would warn of",
}
_STEPS = "What it does to the machine, in this order"


def verdict(account: Account) -> str:
    """The first line of an account."""
    where = f" on {account.node}" if account.node else ""
    if not account.starts:
        return f"kube-proxy 1.36 would not start{where}."
    failing = [name for other in account.others if other.fatal for name in other.nodes]
    elsewhere = f" It would not start on {named(failing)}." if failing else ""
    families = " and ".join(account.families)
    changed = sum(change.changes for change in account.changes)
    settings = f"{changed} kernel {'setting' if changed == 1 else 'settings'}"
    lost = len(account.of(Severity.INEFFECTIVE))
    without = f" {lost} of the things asked for {'has' if lost == 1 else 'have'} no effect." if lost else ""
    return f"kube-proxy 1.36 would start{where} in {account.mode} mode for {families}, and write {settings}.{without}{elsewhere}"


def named(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def change_words(change: Change) -> str:
    """A kernel setting with its old and new value, and why."""
    if change.old is None:
        moved = f"= {change.new:,}"
    elif change.changes:
        moved = f"{change.old:,} → {change.new:,}"
    else:
        moved = f"is {change.new:,} already"
    return f"{change.name} {moved}" + (f" ({change.how})" if change.how else "")


def folded(account: Account) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The rows that tell something at once, and the others."""
    telling = tuple(row for row in account.rows if row.telling)
    return telling, tuple(row for row in account.rows if not row.telling)


def _source(row: Row) -> str:
    if not row.origin:
        return "default"
    return f"{row.origin}, the default" if row.default else row.origin


# ------------------------------------------------------------------------------------------------------------------ text


def print_account(account: Account, console: "Console", *, everything: bool = False) -> None:
    """Print the account. Settings at their defaults that are not at risk are folded into one paragraph, unless ``everything``."""
    page = _Page(console)
    _print_head(page, account)
    if not account.steps:
        return
    page.head(_STEPS)
    for number, step in enumerate(account.steps, 1):
        _print_step(page, number, step)
    if ends := _ends(account):
        page.item("    ", ends, "red")
    telling, rest = (account.rows, ()) if everything else folded(account)
    page.head("Settings" if everything else "Settings that are set, or at risk")
    for row in telling:
        _print_row(page, row)
    if rest:
        page.head("Settings at their defaults, and what is not read (--all explains them)")
        page.item("", ", ".join(f"{row.path}={row.value}" for row in rest if not row.unread), "dim")
        unread = [row.path for row in rest if row.unread]
        page.item("", f"not read here: {', '.join(unread)}", "dim")


def _print_head(page: "_Page", account: Account) -> None:
    page.item("", verdict(account), "bold" if account.holds else "bold yellow" if account.starts else "bold red")
    page.item("", f"from {account.where}", "dim")
    for severity in Severity:
        found = account.of(severity)
        if found:
            page.head(_HEADS[severity])
            for each in found:
                page.item("- ", _condition(each), _TONES[severity])
    if at_risk := [row.path for row in account.rows if row.at_risk]:
        page.head("At risk, as told below")
        page.item("", ", ".join(at_risk), "yellow")
    if account.others:
        page.head("Other nodes")
        for other in account.others:
            page.item("- ", f"{named(other.nodes)}: {'; '.join(other.words)}", "red" if other.fatal else "")


def _ends(account: Account) -> str:
    """What is left of a machine on which kube-proxy ends; empty if it does not."""
    if account.starts:
        return ""
    last = len(account.steps)
    if last < 2:
        return "Here kube-proxy ends. The machine is as it was: rules that are there stay, and nobody writes changes."
    return f"In step {last} kube-proxy ends, and again at each restart: no rules are written, and what step 2 removed is gone."


def _condition(each: Condition) -> str:
    where = f" [{each.where}]" if each.where else ""
    see = f" ({each.see})" if each.see else ""
    return f"{each.name}: {each.words}{see}{where}"


def _print_step(page: "_Page", number: int, step: Step) -> None:
    page.item(f"{number:>2}. ", f"{step.title} ({step.see})", "bold")
    for line in step.lines:
        page.item("    - ", line)
    for change in step.changes:
        page.item("    * ", change_words(change), "green" if change.changes else "dim")


def _print_row(page: "_Page", row: Row) -> None:
    page.item("", f"{row.path} = {row.value}   [{_source(row)}]", "bold")
    if row.unread:
        page.item("    ", f"not read: {row.unread} ({row.see})", "yellow" if row.asked else "dim")
        return
    page.item("    ", f"{row.does} ({row.see})")
    if row.moot:
        page.item("    ", f"without effect: {row.moot}", "yellow")
    for each in row.remarks:
        page.item(f"    {each.kind}: ", _remark(each), _STYLES[each.kind])


def _remark(each: Remark) -> str:
    return f"{each.words} ({each.see})" if each.see else each.words


class _Page:
    """Prints wrapped lines with a hanging indent."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    def head(self, words: str) -> None:
        self._console.print()
        self._console.print(words, markup=False, style="bold underline")

    def item(self, lead: str, words: str, style: str = "") -> None:
        import textwrap

        width = max(self._console.width, 40)
        text = textwrap.fill(
            printable(words),
            width,
            initial_indent=lead,
            subsequent_indent=" " * len(lead),
            break_long_words=False,
            break_on_hyphens=False,
        )
        self._console.print(text, markup=False, style=style or None, soft_wrap=True)


# -------------------------------------------------------------------------------------------------------------- Markdown


def markdown(account: Account) -> str:
    """The account as GitHub's Markdown, with every setting."""
    return printable("\n".join(_markdown(account)) + "\n", keep="\n")


def _markdown(account: Account) -> Iterator[str]:
    yield from (f"# {_marked(verdict(account))}", "", f"From {_marked(account.where)}.")
    for severity in Severity:
        found = account.of(severity)
        if found:
            yield from ("", f"## {_HEADS[severity]}", "")
            yield from (f"- {_marked(_condition(each))}" for each in found)
    if account.others:
        yield from ("", "## Other nodes", "")
        yield from (f"- {_marked(named(other.nodes))}: {_marked('; '.join(other.words))}" for other in account.others)
    if not account.steps:
        return
    yield from ("", f"## {_STEPS}", "")
    for number, step in enumerate(account.steps, 1):
        yield f"{number}. {_marked(step.title)} ({_marked(step.see)})"
        yield from (f"   - {_marked(line)}" for line in step.lines)
        yield from (f"   - {_marked(change_words(change))}" for change in step.changes)
    yield from (
        "",
        "## Settings",
        "",
        "| setting | value | from | what it does | costs and risks |",
        "|---|---|---|---|---|",
    )
    for row in account.rows:
        does = f"not read: {row.unread}" if row.unread else row.does
        moot = f"; without effect: {row.moot}" if row.moot else ""
        remarks = "<br>".join(_marked(f"{each.kind}: {_remark(each)}") for each in row.remarks)
        cells = (row.path, row.value, _source(row), f"{does}{moot} ({row.see})")
        yield f"| {' | '.join(map(_marked, cells))} | {remarks} |"


_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")


def _marked(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text.replace("\n", " "))


# ------------------------------------------------------------------------------------------------------------------ JSON


def to_json(account: Account) -> dict[str, Any]:
    """The account as a value that json can write."""
    return {
        "node": account.node or None,
        "from": account.where,
        "starts": account.starts,
        "holds": account.holds,
        "mode": account.mode or None,
        "families": list(account.families),
        "conditions": [
            {
                "severity": str(each.severity),
                "name": each.name,
                "words": each.words,
                "see": each.see,
                "where": each.where or None,
                "step": each.step or None,
            }
            for each in account.conditions
        ],
        "steps": [
            {
                "title": step.title,
                "see": step.see,
                "lines": list(step.lines),
                "kernelSettings": [_change(each) for each in step.changes],
            }
            for step in account.steps
        ],
        "settings": [_row(row) for row in account.rows],
        "otherNodes": [
            {"nodes": list(o.nodes), "starts": not o.fatal, "differences": list(o.words)} for o in account.others
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    return {"name": change.name, "before": change.old, "after": change.new, "why": change.how}


def _row(row: Row) -> dict[str, Any]:
    return {
        "setting": row.path,
        "value": row.value,
        "isDefault": row.default,
        "from": row.origin or None,
        "read": not row.unread,
        "effective": not row.unread and not row.moot,
        "whyNot": row.unread or row.moot or None,
        "does": row.does or None,
        "see": row.see,
        "remarks": [{"kind": str(each.kind), "words": each.words, "see": each.see or None} for each in row.remarks],
    }
