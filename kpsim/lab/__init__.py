"""A node in Linux: network namespaces that hold its interfaces, routes and rules, and the world around it.

Counterpart: the machine that a real kube-proxy runs on. The lab loads rules, sends packets and reports what it sees.
What it should see is decided in ``kpsim.verify``.
"""
