"""Outputs of other commands that people hand over as rules: what each is, and which command gives the right one.

``iptables -S`` prints one table without its name. It is read if its built-in chains tell the table.
"""

import re

from kpsim.dialects.iptables.layout import BUILT_IN_CHAINS

_JSON = re.compile(r"\s*(?:\{|\[\s*(?:[\[{\]\"]|-?\d+\s*[,\]]|true|false|null|$))")
_IPVSADM_LIST = re.compile(r"^(?:IP Virtual Server version|Prot LocalAddress:Port Scheduler)", re.MULTILINE)
_IPVSADM_SAVE = re.compile(r"^-A -[tuf] \S+ -s \w+", re.MULTILINE)
_IPSET_SAVE = re.compile(r"^(?:create|add) \S+ \S+", re.MULTILINE)
_IPSET_LIST = re.compile(r"^Name: \S+\r?\nType: \S+:", re.MULTILINE)
_IPTABLES_LIST = re.compile(r"^Chain \S+ \((?:policy \w+|\d+ references)", re.MULTILINE)
_TABLE_LINE = re.compile(r"^\*\w+\s*$", re.MULTILINE)
_COMMAND_LINE = re.compile(r"^-[PNA] \S+", re.MULTILINE)
_POLICY_LINE = re.compile(r"^-P (\S+)", re.MULTILINE)
#: ``root@n1:~# iptables-save``, ``$ sudo iptables-save``, a fence of Markdown
_TERMINAL = re.compile(
    r"^\s*(?:(?:\S.*)?[#$>%]\s+(?:sudo\s+)?(?:\S*/)?ip6?tables\b.*|(?:\(\S+\)\s*)?\[?[\w.-]+@\S+.*[#$>%]\s*(?:\S.*)?|[`~]{3}.*)$"
)
#: a table of rules below a margin: quoted in a mail, indented in a document, in a listing with line numbers
_MARGIN = re.compile(
    r"^([ \t]+|[>|][> |\t]*|\s*\d+[:\t |]+\s?)\*(?:filter|nat|mangle|raw|security)[ \t\r]*$", re.MULTILINE
)
_GIVE = "give the output of iptables-save (ip6tables-save for IPv6)"


def what_else(text: str) -> str | None:
    """What a text is that is neither the output of iptables-save nor of nft, with what to give instead.

    None if it is not recognised.
    """
    if _JSON.match(text):
        if '"nftables"' in text:
            return f"this is the output of nft -j list ruleset, not of iptables-save; {_GIVE}"
        return f"this is JSON, not rules; {_GIVE}"
    if _TABLE_LINE.search(text):
        return None
    if (margin := _MARGIN.search(text)) is not None:
        return f"its lines stand behind a margin, as {margin[0].rstrip()!r}: iptables-restore refuses that; take the margin away"
    if _IPVSADM_LIST.search(text):
        return f"this is the output of ipvsadm -Ln, which holds no rules; {_GIVE}"
    if _IPVSADM_SAVE.search(text):
        return f"this is the output of ipvsadm -Sn, which holds no rules; {_GIVE}"
    if _IPSET_LIST.search(text):
        return f"this is the output of ipset list, which holds no rules; {_GIVE}"
    if _IPTABLES_LIST.search(text):
        return f"this is the output of iptables -L, which leaves out interfaces and more; {_GIVE}"
    if _COMMAND_LINE.search(text):
        return None if _table_of_commands(text) else _which_table(text)
    if _IPSET_SAVE.search(text):
        return f"this is the output of ipset save, which holds no rules; {_GIVE}"
    return None


def is_of_terminal(line: str) -> bool:
    """Whether a line is of the terminal that showed the rules, or of the page that quotes them: a prompt, a fence."""
    return _TERMINAL.match(line) is not None and not line.startswith("# ")


def with_table(text: str) -> str:
    """The output of ``iptables -S`` with a line for its table above it, and COMMIT below it.

    Another text is returned as it is.
    """
    if _TABLE_LINE.search(text) or not _COMMAND_LINE.search(text):
        return text
    table = _table_of_commands(text)
    if table is None:
        return text
    return f"*{table}\n{text.rstrip()}\nCOMMIT\n"


def _table_of_commands(text: str) -> str | None:
    """The only table that has the built-in chains to which ``iptables -S`` prints the policies; None if there is none."""
    chains = _POLICY_LINE.findall(text)
    tables = [name for name, bases in BUILT_IN_CHAINS.items() if sorted(bases) == sorted(chains)]
    return tables[0] if len(tables) == 1 else None


def _which_table(text: str) -> str:
    chains = set(_POLICY_LINE.findall(text))
    fit = [name for name, bases in BUILT_IN_CHAINS.items() if chains == set(bases)]
    fit = fit or [name for name, bases in BUILT_IN_CHAINS.items() if chains and chains <= set(bases)]
    example = fit[0] if fit else "nat"
    which = f"of the table {' or '.join(fit)}" if fit else "of one table"
    return f"this looks like the output of iptables -S {which}: write *{example} above it and COMMIT below, or {_GIVE}"
