"""Asks the machine's own iptables-restore about rulesets: whether it and the kernel take them, and what they hold then."""

import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import zip_longest
from socket import getprotobyname
from typing import NamedTuple

from fuzz.rule_words import CHAINS, OWN_CHAINS
from fuzz.ruleset_drawing import document, draw_document, draw_rule
from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_ruleset
from kpsim.errors import InputError
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools.variants import Variant
from kpsim.verify.drawing.choices import SeededChoices, pick

_REMARKS = re.compile(r"^#.*\n| \[\d+:\d+\]$", re.MULTILINE)
_BATCH = 40  #: rules that are loaded in one document; a document that is refused is loaded again rule by rule
_EMPTIED = "".join(
    "\n".join([f"*{table}", *(f":{chain} ACCEPT [0:0]" for chain in chains), "COMMIT", ""])
    for table, chains in CHAINS.items()
)


class Oracle:
    """One iptables in a namespace of its own."""

    def __init__(self, family: Family, variant: Variant) -> None:
        self.family, self.variant = family, variant
        self._namespace = Namespace()

    def close(self) -> None:
        self._namespace.close()

    def takes(self, text: str) -> str | None:
        """None if the tool loads the text into the kernel, else its complaint. What was loaded before is gone."""
        restore = self.variant.tool(self.family, "restore")
        self._namespace.run([restore], stdin=_EMPTIED)
        try:
            # kpsim also reads files with the line ends of Windows, with a byte order mark, or with a last line cut short
            self._namespace.run([restore], stdin=text.replace("\r", "").removeprefix("\ufeff").rstrip("\n") + "\n")
        except LabError as error:
            complaint = str(error).partition(": ")[2]
            return complaint
        return None

    def held(self) -> dict[str, list[str]]:
        """What the kernel holds, by table, as iptables-save prints it; tables that hold nothing are left out."""
        return by_table(self._namespace.run([self.variant.tool(self.family, "save")]))


def by_table(saved: str) -> dict[str, list[str]]:
    """The lines of each table of a saved text. Remarks, counters and tables that hold nothing are left out."""
    found: dict[str, list[str]] = {}
    for part in _REMARKS.sub("", saved).split("COMMIT\n"):
        lines = [_plain(line) for line in part.splitlines()]
        if lines and any(line[0] != ":" or not line.endswith(" ACCEPT") for line in lines[1:]):
            found[lines[0][1:]] = sorted(lines[1:], key=lambda line: line.split()[1] if line[0] == "-" else "")
    return found


_ALL_PORTS = re.compile(r"(?<!!) --[sd]port 0:65535")
_PROTOCOL = re.compile(r"-p ([a-z][\w-]*)")
_NEVER_WORKED = re.compile(r" --nflog-range \d+")
_ORIGINAL_NETWORK = re.compile(r"--ctorigdst (\S+/\d+)")
_NEGATED_PORTS = re.compile(r"! (--[sd]port) (\d+):(\d+)")


def _plain(line: str) -> str:
    """A line without what two tools print in two ways for the same rule.

    iptables-nft prints the complement of a negated range that begins with port 0 or ends with the last one, and a second
    ``-m tcp`` that adds nothing. It leaves out an option of NFLOG that never worked. ``-m sctp`` prints a range of all
    ports. ``--ctorigdst`` prints the host part of a network, which it does not compare.
    """
    line = _NEGATED_PORTS.sub(_complement, line)
    line = _PROTOCOL.sub(_number_of_protocol, line)
    line = _ALL_PORTS.sub("", _NEVER_WORKED.sub("", line))
    line = _ORIGINAL_NETWORK.sub(lambda found: f"--ctorigdst {ip_network(found[1], strict=False)}", line)
    for module in ("tcp", "udp", "sctp"):
        first, found, rest = line.partition(f" -m {module}")
        line = first + found + rest.replace(f" -m {module}", "") if found else line
    return line


def _number_of_protocol(found: re.Match[str]) -> str:
    """A protocol by its number, where iptables-save prints a name of this machine's files."""
    try:
        return f"-p {getprotobyname(found[1])}"
    except OSError:
        return found[0]


def _complement(found: re.Match[str]) -> str:
    low, high = int(found[2]), int(found[3])
    if low == 0 and high < 0xFFFF:
        low, high = high + 1, 0xFFFF
    elif high == 0xFFFF and low > 0:
        low, high = 0, low - 1
    else:
        return found[0]
    return f"{found[1]} {low}" if low == high else f"{found[1]} {low}:{high}"


_SLOW = re.compile(r"--limit \d+/(?:day|hour)")


class Disagreement(NamedTuple):
    """A text about which the model and the tool differ. ``rule`` is the one rule that matters, if it is known."""

    family: Family
    variant: Variant
    text: str
    rule: str
    why: str

    def __str__(self) -> str:
        return f"{self.variant} {self.family.label}: {self.rule or self.text!r}: {self.why}"

    def file(self) -> tuple[str, str]:
        """A file's name and the text for iptables-restore."""
        return f"{self.variant}-ipv{self.family.value}.rules", self.text


@dataclass
class RulesetTally:
    """Counts of what was compared."""

    rules: int = 0
    documents: int = 0
    accepted: int = 0  #: rules and documents that the model accepts
    stricter: dict[str, int] = field(default_factory=dict)  #: refused by the model only: its words, how often
    found: list[Disagreement] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.rules} rules and {self.documents} documents, {self.accepted} accepted by the model, {len(self.found)} disagreements"


def read(text: str, family: Family) -> str | InputError:
    """The text as the model saves it again, or why the model refuses it."""
    try:
        return render_ruleset(parse(text, family), Style.SAVE)
    except InputError as error:
        return error


def compare(oracle: Oracle, text: str, rule: str = "") -> Disagreement | None:
    """What the model and the tool make of a text that the model accepts."""
    ours = read(text, oracle.family)
    assert isinstance(ours, str)
    complaint = oracle.takes(text)
    if complaint is not None:
        if oracle.variant is Variant.LEGACY and rule and _SLOW.search(ours):
            return None  # xt_limit counts up to a number that depends on the kernel's clock; nft's limit does not
        return Disagreement(oracle.family, oracle.variant, text, rule, f"the tool refuses it: {complaint}")
    expected, held = by_table(ours), oracle.held()
    for table in sorted({*expected, *held}):
        for mine, theirs in zip_longest(expected.get(table, []), held.get(table, []), fillvalue=""):
            if mine != theirs and not (
                oracle.variant is Variant.LEGACY and sorted(mine.split()) == sorted(theirs.split())
            ):
                # legacy keeps a second -m of ports where it stood; nf_tables' iptables joins both, as kpsim does
                return Disagreement(
                    oracle.family, oracle.variant, text, rule, f"read as {mine!r}, the kernel holds {theirs!r}"
                )
    return None


def fuzz_rules(oracle: Oracle, seed: int, tally: RulesetTally, count: int = _BATCH) -> None:
    """Draws rules for one table, and compares those that the model accepts, all in one document."""
    choices = SeededChoices(seed, "rules", str(oracle.family.label))
    table = pick(choices, list(CHAINS))
    accepted: list[tuple[str, str]] = []
    for _ in range(count):
        chain = pick(choices, CHAINS[table] + OWN_CHAINS[:1])
        words = draw_rule(choices, oracle.family, table, chain)
        tally.rules += 1
        if isinstance(read(document(table, [(chain, words)]), oracle.family), str):
            accepted.append((chain, words))
    tally.accepted += len(accepted)
    if (
        isinstance(read(document(table, accepted), oracle.family), str)
        and compare(oracle, document(table, accepted)) is None
    ):
        return
    for chain, words in accepted:
        if found := compare(oracle, document(table, [(chain, words)]), f"{table}: -A {chain} {words}"):
            tally.found.append(found)


def fuzz_document(oracle: Oracle, seed: int, tally: RulesetTally) -> None:
    """Draws a document and compares it if the model accepts it."""
    choices = SeededChoices(seed, "document", str(oracle.family.label))
    text = draw_document(choices, oracle.family)
    tally.documents += 1
    if isinstance(read(text, oracle.family), str):
        tally.accepted += 1
        if found := compare(oracle, text):
            tally.found.append(found)
