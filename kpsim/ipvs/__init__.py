"""ip_vs, the kernel's load balancer: what it was told (``servers``).

Counterpart: the ip_vs module of Linux, as far as kube-proxy in ipvs mode uses it (spec 05).
"""
