"""What is known of iptables mode, from whichever mode a cluster comes."""

from kpsim.migration.concerns import whole_cluster
from kpsim.migration.facts import Remark

DROPS_INVALID = Remark(
    "Packets that belong to no connection are dropped",
    "iptables mode drops packets in state INVALID in FORWARD, unless connection tracking is liberal when kube-proxy starts. "
    "Asymmetric routes stop working.",
    "I-11, MODE-1",
    whole_cluster,
)
