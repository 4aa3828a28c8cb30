"""kpsim: what will kube-proxy 1.36 do to this packet, on this node, at this moment, and what if?"""

__version__ = "0.1.0"
