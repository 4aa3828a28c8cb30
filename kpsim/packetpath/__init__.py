"""The pieces of the kernel's packet path: chains and matches, NAT, affinity lists, routing, rejects, and trace steps.

Counterpart: net/netfilter, net/ipv4 and net/ipv6. ``kpsim.netfilter`` puts the pieces together, and ``kpsim.conntrack``
holds the connections. Nothing in here knows Services or kube-proxy.
"""
