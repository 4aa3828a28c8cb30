"""Questions about single packets: a cluster's nodes as machines, traces and probes through them, and their explanation.

Counterpart: ovn-trace. What a packet does is decided in ``kpsim.netfilter``.
"""
