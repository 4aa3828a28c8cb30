"""The iptables dialect: iptables-save output and iptables-restore documents ⇄ :class:`~kpsim.ruleset.Ruleset`.

Counterpart: iptables-restore and iptables-save 1.8.9 (I-4, I-17). ``options`` has a row for each option. ``rules``
reads one rule, and ``documents`` reads whole documents. ``spelling`` says how a rule is written, and ``rendering``
writes it. ``origin`` recovers why kube-proxy wrote a saved rule.
"""

from kpsim.dialects.iptables.documents import parse, parse_rule
from kpsim.dialects.iptables.layout import BUILT_IN_CHAINS, BUILT_IN_NAMES, empty_table, table_key
from kpsim.dialects.iptables.origin import recover_origin
from kpsim.dialects.iptables.rendering import render_rule, render_ruleset
from kpsim.dialects.iptables.spelling import Shape
from kpsim.dialects.iptables.values import Style

__all__ = [
    "BUILT_IN_CHAINS", "BUILT_IN_NAMES", "Shape", "Style", "empty_table", "parse", "parse_rule", "recover_origin", "render_rule",
    "render_ruleset", "table_key",
]  # fmt: skip
