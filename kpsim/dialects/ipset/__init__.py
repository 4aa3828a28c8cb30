"""The language of ipset: what ``ipset save`` prints and ``ipset restore`` takes. A set is a value of ``kpsim.ruleset``.

Counterpart: ipset 7.17. ``elements`` reads and writes what stands in a set, ``documents`` sets and whole files.
"""

from kpsim.dialects.ipset.documents import parse, reads, render

__all__ = ["parse", "reads", "render"]
