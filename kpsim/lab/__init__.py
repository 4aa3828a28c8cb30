"""A node in Linux: network namespaces with its interfaces, routes and rules, and the world around it.

Counterpart: the machine under a real kube-proxy. The lab loads rules, sends packets and says what came of them; what should have come
of them it never knows, that is ``kpsim.verify``'s.
"""
