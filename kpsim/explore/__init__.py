"""Questions to a cluster: load it, look at a node's rules, trace and probe packets. The Python face of the command line.

``cluster`` is a loaded cluster and its answers, ``loading`` makes one of manifests or a recording, ``site`` makes the machines that
packets are sent to.
"""

from kpsim.explore.cluster import Cluster, RulesText
from kpsim.explore.loading import from_recording, load, rules, trace

__all__ = ["Cluster", "RulesText", "from_recording", "load", "rules", "trace"]
