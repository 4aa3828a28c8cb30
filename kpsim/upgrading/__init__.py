"""Upgrades: which Services lose connections when a cluster's nodes are upgraded one by one, and the cheapest change that avoids it, found by trying.

``preparing`` drafts the scenario, ``running`` runs it over seeds, ``losses`` counts what a run lost and why, ``remedies`` is the table of what is
tried, ``search`` tries it, ``verdicts`` says what follows for each Service, ``patches`` and ``writing`` write it.
"""

from kpsim.upgrading.result import UpgradeResult
from kpsim.upgrading.upgrade import upgrade

__all__ = ["UpgradeResult", "upgrade"]
