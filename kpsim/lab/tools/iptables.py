"""iptables as the lab's tool: loads rules with ``iptables-restore``, reads them with ``iptables-save``, and says what
is missing for that.

Counterpart: the iptables package, and ``/proc/net/xt_recent``, where the kernel shows affinity lists. This is the
only module of the lab that spells rules as text.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from itertools import zip_longest
from pathlib import Path

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_ruleset
from kpsim.dialects.iptables.dialect import DIALECT
from kpsim.lab.accounting import LinuxAccounting
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools import GUARD_COMMENT, Obstacle, Remembered
from kpsim.lab.tools.variants import Variant
from kpsim.ruleset import Ruleset, TableKey

_REMARKS = re.compile(r"^#.*\n| \[\d+:\d+\]$", re.MULTILINE)
_RULESET_LINE = re.compile(r"$|[#*:]|COMMIT$|(\[\d+:\d+\] )?-A ")
_EMPTY_TABLE = re.compile(r"\s*\*\w+\n(:\w+ ACCEPT\n)*")
_COUNTERS = re.compile(r"--nfacct-name +(\S+)")
_LIST_NAMES = re.compile(r"--name (\S+)")
_LISTS = Path("/proc/thread-self/net/xt_recent")


class IptablesTool:
    """One family's rules in a namespace, see :class:`kpsim.lab.tools.Tool`. ``accounting`` holds the counters that
    rules name.
    """

    def __init__(self, namespace: Namespace, family: Family, variant: Variant, accounting: LinuxAccounting) -> None:
        self._namespace, self._family, self._variant = namespace, family, variant
        self._accounting = accounting
        self._tables: set[str] = set()  # every table ever loaded; one that new rules lack must be emptied
        self._loaded = ""  # the text that was loaded last
        self._printed: tuple[Ruleset, str] | None = None  # the latest rules with their text, which takes long to make

    @property
    def name(self) -> str:
        return f"iptables-{self._variant}"

    def manages(self, table: TableKey) -> bool:
        return DIALECT.manages(table)

    @property
    def is_in_use(self) -> bool:
        return bool(self._tables)

    # --- rules -----------------------------------------------------------------------------------------------------------

    def load(self, ruleset: Ruleset) -> None:
        self.load_text(self.printed(ruleset))

    def load_text(self, rules: str) -> None:
        """Loads an iptables-save text in place of all rules of the family."""
        for counter in dict.fromkeys(_COUNTERS.findall(rules)):
            self._accounting.create(counter)
        named = {line[1:] for line in rules.splitlines() if line.startswith("*")}
        emptied = "".join(f"*{name}\nCOMMIT\n" for name in sorted(self._tables - named))
        self._namespace.run([self._variant.tool(self._family, "restore"), "--wait"], stdin=rules + emptied)
        self._tables |= named
        self._loaded = rules

    def printed(self, ruleset: Ruleset) -> str:
        if self._printed is None or self._printed[0] is not ruleset:
            self._printed = ruleset, render_ruleset(ruleset, Style.SAVE)
        return self._printed[1]

    def saved(self, *, counters: bool = False) -> str:
        """What iptables-save prints; with ``counters`` each rule's packets and bytes stand before it."""
        command = [self._variant.tool(self._family, "save")]
        saved = self._namespace.run([*command, "-c"] if counters else command)
        if odd := next((line for line in saved.splitlines() if not _RULESET_LINE.match(line)), None):
            raise LabError(f"{command[0]} printed what is no ruleset: {odd[:60]!r}: nothing can be measured with it")
        return saved

    def first_difference(self, expected: str, held: str) -> tuple[str, str] | None:
        """See :class:`kpsim.lab.tools.Tool`. Remarks, counters, empty tables and the order of the tables do not count."""
        pairs = zip_longest(_rules(expected), _rules(held), fillvalue="nothing more")
        return next(((ours, theirs) for ours, theirs in pairs if ours != theirs), None)

    def without_guards(self, saved: str) -> str:
        return "".join(line for line in saved.splitlines(keepends=True) if GUARD_COMMENT not in line)

    def counted(self) -> Iterator[str]:
        """``filter/INPUT -s 203.0.113.7/32 -j DROP (3)``: table, rule and packets."""
        table = ""
        for line in self.without_guards(self.saved(counters=True)).splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("[") and not line.startswith("[0:"):
                count, _, rule = line.partition("] -A ")
                yield f"{table}/{rule} ({count[1:].partition(':')[0]})"

    def reset_counters(self) -> None:
        for table in sorted(self._tables):
            self._namespace.run([self._variant.command(self._family), "--wait", "-t", table, "-Z"])

    # --- affinity lists --------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        with self._namespace.entered():
            known = list(_LISTS.glob("*"))
            writable = all(os.access(affinity, os.W_OK) for affinity in known)
            for affinity in known if writable else ():
                affinity.write_text("/")
            held = not writable and any(affinity.read_text() for affinity in known)
        if held:  # without root's rights outside, a list goes only with the rules that name it (K-4.2)
            text = self._loaded
            self.load_text("".join(f"*{name}\nCOMMIT\n" for name in sorted(self._tables)))
            self.load_text(text)

    def lists(self) -> frozenset[str]:
        with self._namespace.entered():
            return frozenset(path.name for path in _LISTS.glob("*"))

    def lists_in_rules(self) -> frozenset[str]:
        return frozenset(_LIST_NAMES.findall(self.saved()))

    def remembered(self, name: str) -> Remembered:
        with self._namespace.entered():
            file = _LISTS / name
            lines = file.read_text().splitlines() if file.exists() else []
        return {str(ip_address(line.split()[0].removeprefix("src="))): None for line in lines}


def _rules(saved: str) -> list[str]:
    tables = sorted(_REMARKS.sub("", saved).split("COMMIT\n"))
    return [line for table in tables if not _EMPTY_TABLE.fullmatch(table) for line in table.splitlines()]


def rules_from(text: str, family: Family) -> Ruleset:
    """The rules of an iptables-save text, as a value. A match that the model does not know stays as it is written."""
    return parse(text, family, unknown="keep")


# --- what this machine must have ---------------------------------------------------------------------------------------------

#: the package of each variant, by distribution
PACKAGES = {
    "debian": {Variant.NFT: "iptables", Variant.LEGACY: "iptables"},
    "fedora": {Variant.NFT: "iptables-nft", Variant.LEGACY: "iptables-legacy"},
    "alpine": {Variant.NFT: "iptables", Variant.LEGACY: "iptables-legacy"},
}

#: one rule for every table and extension that kube-proxy's rules use (I-4, I-7 … I-12)
_RULES = {
    "nat": {
        "-m comment": "-m comment --comment probe -j RETURN",
        "-m mark": "-m mark --mark 0x4000/0x4000 -j RETURN",
        "-m statistic": "-m statistic --mode random --probability 0.5 -j RETURN",
        "-m recent": "-m recent --name PROBE --rcheck --seconds 10 --reap -j RETURN",
        "-m addrtype": "-m addrtype --src-type LOCAL -j RETURN",
        "-p tcp": "-p tcp -m tcp --dport 80 -j RETURN",
        "-p udp": "-p udp -m udp --dport 80 -j RETURN",
        "-p sctp": "-p sctp -m sctp --dport 80 -j RETURN",
        "-j MARK": "-j MARK --xor-mark 0x4000",
        "-j MASQUERADE --random-fully": "-j MASQUERADE --random-fully",
        "-j DNAT": "-p tcp -j DNAT --to-destination {address}",
    },
    "filter": {
        "-m conntrack": "-m conntrack --ctstate INVALID -j DROP",
        "-j REJECT": "-j REJECT",
    },
    "mangle": {},
}  # fmt: skip
#: where a rule may stand: REJECT not before routing, MASQUERADE only after it, DNAT before it
_CHAINS = {"-j REJECT": "INPUT", "-j MASQUERADE --random-fully": "POSTROUTING", "-j DNAT": "PREROUTING"}
_ADDRESSES = {Family.IPV4: "10.180.0.3:8080", Family.IPV6: "[fd00:10:180::3]:8080"}


def missing_commands(variant: Variant, families: Iterable[Family]) -> list[str]:
    """The variant's commands that are not in PATH."""
    tools = [tool for family in families for tool in (variant.tool(family, "restore"), variant.tool(family, "save"))]
    return [tool for tool in tools if shutil.which(tool) is None]


def missing_in_kernel(namespace: Namespace, variant: Variant, families: Sequence[Family]) -> Iterator[Obstacle]:
    """The tables and extensions that kube-proxy's rules need and the kernel does not have, tried in a namespace."""
    for family in families:
        for table, rules in _RULES.items():
            yield from _missing_in_table(namespace, variant, family, table, rules)


def _missing_in_table(
    namespace: Namespace, variant: Variant, family: Family, table: str, rules: dict[str, str]
) -> Iterator[Obstacle]:
    tool, command = variant.tool(family, "restore"), variant.command(family)
    chain = f"*{table}\n:KPSIM - [0:0]\n"
    if complaint := namespace.complaint([tool], f"{chain}COMMIT\n"):
        if variant is Variant.LEGACY:
            module = f"{'ip' if family is Family.IPV4 else 'ip6'}table_{table}"
            reason = f"the kernel has no {table} table for {command} (module {module}), the backend nft may do"
            yield Obstacle(f"{reason}: {complaint}", f"modprobe {module}")
        else:
            yield Obstacle(f"the kernel has no {table} table for {command}: {complaint}", "modprobe nft_compat")
        return
    for extension, rule in rules.items():
        text = f"-A {_CHAINS.get(extension, 'KPSIM')} {rule.format(address=_ADDRESSES[family])}\n"
        if complaint := namespace.complaint([tool], f"{chain}{text}COMMIT\n"):
            yield Obstacle(f"{command} cannot do {extension}: {complaint}")


def accounting_obstacle(variant: Variant, families: Iterable[Family] = tuple(Family)) -> str | None:
    """Why rules cannot count in named counters on this machine, such as a kernel without xt_nfacct; None if they can.

    It is tried in a new namespace. LabError if there can be none.
    """
    namespace = Namespace()
    try:
        accounting = LinuxAccounting(namespace)
        try:
            accounting.create("probe")
        finally:
            accounting.close()
        for family in families:
            rules = "*filter\n-A INPUT -m nfacct --nfacct-name probe -j DROP\nCOMMIT\n"
            namespace.run([variant.tool(family, "restore")], stdin=rules)
    except LabError as error:
        return str(error).partition("\n")[0]
    finally:
        namespace.close()
    return None
