"""Loads a cluster and answers questions about it: a node's rules, traces and probes of packets. The API for notebooks.

``loading`` makes a cluster from manifests or a recording, ``cluster`` answers the questions, and ``site`` makes the
machines that packets are sent to.
"""

from kpsim.explore.cluster import Cluster, RulesText
from kpsim.explore.loading import from_recording, load, rules, trace

__all__ = ["Cluster", "RulesText", "from_recording", "load", "rules", "trace"]
