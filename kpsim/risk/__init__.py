"""Which Services are at risk when nodes are drained, or nodes and zones are lost, and what helps: from a cluster's objects, without a simulation.

``facts`` finds each Service's endpoints and what keeps them, ``rules`` is the table of advice, ``findings`` and ``local_findings`` say which rows hold, ``judging`` collects them, ``writing`` shows it.
"""

from kpsim.risk.case import Timing
from kpsim.risk.judging import assess
from kpsim.risk.verdicts import Assessment, Finding, Left, Verdict

__all__ = ["Assessment", "Finding", "Left", "Timing", "Verdict", "assess"]
