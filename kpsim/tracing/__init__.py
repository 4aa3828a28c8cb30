"""Questions about single packets: a cluster's nodes as machines, traces and probes through them, and their explanation.

Counterpart: ovn-trace. Nothing in here decides what a packet does; that is ``kpsim.netfilter``'s.
"""
