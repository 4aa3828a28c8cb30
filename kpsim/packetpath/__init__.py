"""The pieces of the kernel's packet path: chains and matches, NAT, flow states, affinity lists, routing, rejects, and its steps.

Counterpart: net/netfilter, net/ipv4 and net/ipv6. ``kpsim.netfilter`` puts them together and ``kpsim.conntrack`` remembers. Nothing
in here knows Services or kube-proxy.
"""
