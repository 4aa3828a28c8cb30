"""The packet path tables, row by row: who reaches what (PP-1 … PP-8, PP-12). ``packet_paths`` explains the rows.

A section such as ``3.2/12.1`` names two tables with the same row. With several configurations, a row has a result for
each, or one for all.
"""

from packet_paths import table

from kpsim.config import Mode

ALL = ("detector", "no detector", "masqueradeAll", "masqueradeAll, no detector")
DETECTION = ("detector", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")

ROWS = [
    *table("""
    # an endpoint that reaches itself: iptables masquerades it whether it is on N or not
    1.6/12.2   a1       tcp  web.C                    → a1 masq, b1 keep
    1.6        b1       tcp  web.C                    → a1 keep, b1 masq
    1.6        a1       tcp  web.E,V,n                → a1 b1 masq
    1.6        a1       tcp  outer.E,V,n              → a1 masq, b1 keep
    1.6        a1       tcp  here.C                   → a1 masq
    """),
    *table("""
    # a host-network endpoint: N's own traffic to it is a hairpin
    1.6        H        tcp  host.C                   → h1 h2 masq | h1 masq, h2 keep
    # an endpoint that is N itself has no POSTROUTING: the source is kept
    1.5        P,Q      tcp  host.C                   → h1 h2 keep
    1.5        X        tcp  host.C                   → h1 keep, h2 masq | h1 h2 keep
    1.5        P,Q,X    tcp  host.E,V,n               → h1 keep, h2 masq
    1.5        H        tcp  host.E,V,n               → h1 h2 masq
    """, "detector", "no detector"),
    *table("""
    # who is a pod: by source address in the CIDR modes, by input interface in the others
    1.2        P        tcp  web.C                    → a1 b1 keep
    1.2        Q        tcp  web.C                    → a1 b1 keep | a1 b1 masq | a1 b1 masq | a1 b1 masq
    1.2        X,H      tcp  web.C                    → a1 b1 masq
    1.2        H@cni    tcp  web.C                    → a1 b1 keep | a1 b1 keep | a1 b1 masq | a1 b1 masq
    1.2        P        tcp  outer.E,V,n              → a1 b1 keep
    1.2/5.5    Q        tcp  outer.E,V,n              → a1 b1 keep | a1 keep | a1 keep | a1 keep
    1.2/5.5    Q        tcp  outerfar.E,V,n           → b1 b2 keep | DROP | DROP | DROP
    1.2        X        tcp  outer.E,V,n              → a1 keep
    1.2        H        tcp  outer.E,V,n              → a1 b1 masq
    1.2        H@cni    tcp  outer.E,V,n              → a1 b1 keep | a1 b1 keep | a1 b1 masq | a1 b1 masq
    v4 1.2     L        tcp  outer.n@lo               → a1 b1 masq
    """, *DETECTION),
    *table("""
    2          P        udp  dns.C                    → a1 b1 keep
    2          X        udp  dns.C,E,V,n              → a1 b1 masq
    2          P        sctp sctp.C                   → a1 b1 keep
    2          X        sctp sctp.C,E,V,n             → a1 b1 masq
    2          P,Q,X,H  tcp  web.C:81                 → PASS out
    2/12.3     P,X,H    udp  web.C:80                 → PASS out
    2          P        tcp  dns.C                    → PASS out
    2          P        sctp web.C                    → PASS out
    2          P,X,H    icmp web.C                    → PASS out
    2/12.3     P,X,H    tcp  unallocated:80           → PASS out
    2          P,X,H    tcp  web.E,V:81               → PASS out
    2          P,X,H    tcp  proxied.V                → PASS out
    2          X        tcp  proxied.C,E,n            → a1 b1 masq
    2          P,Q,X,H  tcp  a1:8080                  → PASS out
    2          P,X,H    tcp  b1:8080                  → PASS out
    2          P,Q,X,H  tcp  h1:8080                  → PASS in
    2          P,H      tcp  h2:8080                  → PASS out
    2          P,Q,X,H  tcp  outer.hc                 → PASS in
    2          P,X,H    tcp  N:22                     → PASS in
    2          P,X,H    udp  web.n                    → PASS in
    2          L        tcp  lo:22                    → PASS in
    2          P,H      tcp  elsewhere:443            → PASS out
    # allocated, but for cluster IPs only: no other frontends
    2          X        tcp  private.E,V              → PASS out
    """),
    *table("""
    3.1/12.5   P,Q,X,H  tcp  none.C                   → REJ
    3.1        P,Q,X,H  tcp  privatenone.C            → REJ
    3.1        P,X,H    tcp  localnone.C              → REJ
    3.1        P,X,H    tcp  unready.C                → REJ
    3.1        P,Q,X,H  tcp  far.C                    → DROP
    3.1        P,X,H    tcp  innerfar.C               → DROP
    3.1        P,X,H    tcp  privatefar.C             → DROP
    3.2/12.1   P,Q      tcp  web.C                    → a1 b1 keep | a1 b1 keep | a1 b1 masq | a1 b1 masq
    3.2/12.1   X,H      tcp  web.C                    → a1 b1 masq | a1 b1 keep | a1 b1 masq | a1 b1 masq
    3.2/12.1   P,Q      tcp  inner.C                  → a1 keep    | a1 keep    | a1 masq    | a1 masq
    3.2/12.1   X,H      tcp  inner.C                  → a1 masq    | a1 keep    | a1 masq    | a1 masq
    3.2        P        tcp  local.C                  → a1 keep    | a1 keep    | a1 masq    | a1 masq
    3.2        X,H      tcp  local.C                  → a1 masq    | a1 keep    | a1 masq    | a1 masq
    3.2        P        tcp  private.C                → a1 b1 keep | a1 b1 keep | a1 b1 masq | a1 b1 masq
    3.2        X,H      tcp  private.C                → a1 b1 masq | a1 b1 keep | a1 b1 masq | a1 b1 masq
    # external policy, source ranges and where node ports are accepted do not matter for cluster IPs
    3.1        P        tcp  outer.C                  → a1 b1 keep | a1 b1 keep | a1 b1 masq | a1 b1 masq
    3.1        P        tcp  outerfar.C               → b1 b2 keep | b1 b2 keep | b1 b2 masq | b1 b2 masq
    3.1        B        tcp  guarded.C                → a1 b1 masq | a1 b1 keep | a1 b1 masq | a1 b1 masq
    3.1        B        tcp  guardedfar.C             → b1 b2 masq | b1 b2 keep | b1 b2 masq | b1 b2 masq
    """, *ALL),
    *table("""
    4/12.1     P,Q,X,H  tcp  web.E,V,n                → a1 b1 masq
    4/12.1     P,Q,X,H  tcp  inner.E,V,n              → a1 b1 masq
    4          P,X,H    tcp  innerfar.E,V,n           → b1 b2 masq
    v4 4/12.1  L        tcp  web.n@lo                 → a1 b1 masq
    4          P,X,H    tcp  onnode.E                 → a1 b1 masq
    """, *ALL),
    *table("""
    5/12.1     P,Q      tcp  outer.E,V,n              → a1 b1 keep | a1 keep | a1 b1 keep | a1 keep
    5/12.1     H        tcp  outer.E,V,n              → a1 b1 masq
    v4 5/12.1  L        tcp  outer.n@lo               → a1 b1 masq
    5/12.1     X        tcp  outer.E,V,n              → a1 keep
    5.1        P        tcp  outerfar.E,V,n           → b1 b2 keep | DROP    | b1 b2 keep | DROP
    5.1        H        tcp  outerfar.E,V,n           → b1 b2 masq
    v4 5.1/7.3 L        tcp  outerfar.n@lo            → b1 b2 masq
    5          X        tcp  outerfar.E,V,n           → DROP
    5          P        tcp  local.E,V,n              → a1 b1 keep | a1 keep | a1 b1 keep | a1 keep
    5          X        tcp  local.E,V,n              → a1 keep
    5          P        tcp  far.E,V,n                → b1 b2 keep | DROP    | b1 b2 keep | DROP
    5          X        tcp  far.E,V,n                → DROP
    5          H        tcp  far.E,V,n                → b1 b2 masq
    5          X        tcp  hostlocal.E,V,n          → h1 keep
    5          P        tcp  hostlocal.E,V,n          → h1 h2 keep | h1 keep | h1 h2 keep | h1 keep
    5.4        X        tcp  t2.E,V,n                 → a2 a3 keep
    """, *ALL),
    *table("""
    6/12.5     P,Q,X    tcp  none.E,V,n               → REJ
    6          P,X      tcp  localnone.E,V,n          → REJ
    6          P,X      tcp  unready.E,V,n            → REJ
    6          H        tcp  none.n                   → REJ
    6          H        tcp  localnone.n              → REJ
    # OUTPUT knows no external addresses: it leaks
    6          H        tcp  none.E,V                 → PASS out
    6          H        tcp  localnone.E,V            → PASS out
    6          H        tcp  guardednone.V            → PASS out
    6          P,Q,X,H  tcp  nobodyonnode.E           → REJ
    6/8        B,P,X    tcp  guardednone.V            → REJ
    6/8        B        tcp  clientsnone.V            → REJ
    """, *ALL),
    *table("""
    7.1        P,Q,X,H  tcp  web.n@N2                 → a1 b1 masq
    v4 7.1     L        tcp  web.n@lo                 → a1 b1 masq
    v6 7.1     L        tcp  web.n@lo                 → PASS in
    7.1        P        tcp  outer.n@N2               → a1 b1 keep
    7.1        X        tcp  outer.n@N2               → a1 keep
    7.6        H        tcp  web.n@M                  → PASS out
    # filter rules test no more than that the destination is local
    7.2        X,H      tcp  none.n@N2                → REJ
    7.2        L        tcp  none.n@lo                → REJ
    7.2        X        tcp  outerfar.n@N2            → DROP
    v6 7.2     L        tcp  outerfar.n@lo            → DROP
    # over the wire to 127/8: only what an accepted node port translates
    v4 7.4     X,P      tcp  web.n@lo                 → a1 b1 masq
    v4 7.4     X        tcp  outer.n@lo               → a1 keep
    v4 7.4     X        tcp  lo:22                    → DROP
    v4 7.4     X        tcp  none.n@lo                → DROP
    v4 7.4     X        tcp  outerfar.n@lo            → DROP
    # nor from N itself unless it comes from 127/8
    v4 7.4     H@N      tcp  lo:22                    → DROP
    v4 7.4     H@N      tcp  web.n@lo                 → a1 b1 masq
    v6 7.4     H@N      tcp  lo:22                    → PASS in
    7.5        B,P      tcp  guarded.n                → a1 b1 masq
    7.5        B        tcp  guardedlocal.n           → a1 keep
    """),
    *table("""
    7.1/12.7   P,X,H    tcp  web.n                    → a1 b1 masq
    7.1/12.7   P,X,H    tcp  web.n@N2                 → PASS in
    7.1/12.7   L        tcp  web.n@lo                 → PASS in
    7.2        P,X,H    tcp  none.n@N2                → REJ
    7.2        L        tcp  none.n@lo                → REJ
    7.2        P,X,H    tcp  outerfar.n@N2            → DROP
    7.2        L        tcp  outerfar.n@lo            → DROP
    """, "nodePortAddresses nodes", "nodePortAddresses primary"),
    *table("""
    v4 7.1     X,H      tcp  web.n@N2                 → PASS in
    v6 7.1     X,H      tcp  web.n@N2                 → a1 b1 masq
    """, "nodePortAddresses IPv4"),
    *table("""
    v4 7.1     X,H      tcp  web.n@N2                 → a1 b1 masq
    v4 7.1     L        tcp  web.n@lo                 → a1 b1 masq
    v6 7.1     X,H      tcp  web.n@N2                 → PASS in
    """, "nodePortAddresses IPv6"),
    *table("""
    v4 7.1     L        tcp  web.n@lo                 → a1 b1 masq
    v6 7.1     L        tcp  web.n@lo                 → PASS in
    7.1        P,X,H    tcp  web.n                    → PASS in
    7.1        P,X,H    tcp  web.n@N2                 → PASS in
    """, "nodePortAddresses loopback"),
    *table("""
    7.1/12.7   L        tcp  web.n@lo                 → PASS in
    7.1        X,H      tcp  web.n                    → a1 b1 masq
    7.1        X,H      tcp  web.n@N2                 → a1 b1 masq
    7.2        L        tcp  none.n@lo                → REJ
    7.2        L        tcp  outerfar.n@lo            → DROP
    v4 7.4     X        tcp  lo:22                    → DROP martian destination
    v4 7.4     H@N      tcp  lo:22                    → PASS in
    v4 7.1     X        tcp  web.n@lo                 → DROP martian destination
    """, "no localhostNodePorts"),
    *table("""
    8/12.4     X        tcp  guarded.V                → a1 b1 masq
    8          X        tcp  guardedlocal.V           → a1 keep
    8          X        tcp  guardedfar.V             → DROP
    8/12.4     B        tcp  guarded.V                → DROP
    8          B        tcp  guardedlocal.V           → DROP
    8          B        tcp  guardedfar.V             → DROP
    8/12.4     P,Q      tcp  guarded.V                → DROP
    8          P        tcp  guardedlocal.V           → DROP
    8/12.4     H        tcp  guarded.V                → a1 b1 masq
    8          H        tcp  guardedlocal.V           → a1 b1 masq
    8          H        tcp  guardedfar.V             → b1 b2 masq
    # it is the node IP that lets its processes in, and only it
    8          H@N2     tcp  guarded.V                → DROP
    8          H        tcp  clientsonly.V            → DROP
    8          H        tcp  clientslocal.V           → DROP
    8/12.4     OWN      tcp  guarded.V                → a1 b1 masq
    8          OWN      tcp  clientsonly.V            → DROP
    8          X        tcp  clientsonly.V            → a1 b1 masq
    # only the load balancer's address is guarded
    8/12.4     B,P,H    tcp  guarded.E,n              → a1 b1 masq
    8          B        tcp  guardedlocal.E           → a1 keep
    8          H        tcp  clientsonly.E,n          → a1 b1 masq
    8          B,P,X,H  tcp  open.V                   → a1 b1 masq
    # ranges of the other family do not count, and none of the own is no filter
    v4 8       B,P,H    tcp  v6only.V                 → a1 b1 masq
    v6 8       B,P,H    tcp  v6only.V                 → DROP
    v6 8       X        tcp  v6only.V                 → a1 b1 masq
    v6 8       B,P,H    tcp  v4only.V                 → a1 b1 masq
    v4 8       B,P,H    tcp  v4only.V                 → DROP
    v4 8       X        tcp  v4only.V                 → a1 b1 masq
    """, "detector", "masqueradeAll"),
    *table("""
    12.6       P        tcp  t1.C                     → a1 a2 b1 keep
    12.6       X        tcp  t1.V                     → a1 a2 keep
    12.6       P        tcp  t2.C                     → b1 keep
    12.6       X        tcp  t2.V                     → a2 a3 keep
    12.6       P        tcp  t3.C                     → b1 keep
    12.6       X        tcp  t3.V                     → DROP
    12.6       P        tcp  t4.C                     → REJ
    12.6       X        tcp  t4.V                     → REJ
    12.6       P        tcp  t5.C                     → a2 a3 b2 keep
    12.6       X        tcp  t5.V                     → a2 a3 b2 masq
    12.6       P        tcp  t6.C                     → a1 a2 b3 keep
    12.6       X        tcp  t6.V                     → a1 a2 b3 masq
    """),
]  # fmt: skip

#: what is otherwise in nftables mode: 1.6, 2, 6 to 8, NFT-5, NFT-9, NFT-12
IN_NFTABLES = [
    *table("""
    # only endpoints on N are in hairpin-connections
    1.6        b1       tcp  web.C                    → a1 b1 keep
    # undefined ports and protocols of a cluster IP are rejected
    2          P,Q,X,H  tcp  web.C:81                 → REJ
    2          P,X,H    udp  web.C:80                 → REJ
    2          P        tcp  dns.C                    → REJ
    2          P        sctp web.C                    → REJ
    2          P,X,H    icmp web.C                    → REJ
    # by default only the primary address has node ports
    7.1        P,Q,X,H  tcp  web.n@N2                 → PASS in
    7.1        P,X      tcp  outer.n@N2               → PASS in
    7.1        X,H      tcp  none.n@N2                → PASS in
    7.1        X        tcp  outerfar.n@N2            → PASS in
    # loopback has none, and no rule takes what comes there from outside, or from other addresses of N
    v4 7.4     X,P      tcp  web.n@lo                 → DROP martian destination
    v4 7.4     X        tcp  outer.n@lo               → DROP martian destination
    v4 7.4     X        tcp  lo:22                    → DROP martian destination
    v4 7.4     X        tcp  none.n@lo                → DROP martian destination
    v4 7.4     X        tcp  outerfar.n@lo            → DROP martian destination
    v4 7.4     H@N      tcp  lo:22                    → PASS in
    v4 7.4     H@N      tcp  web.n@lo                 → PASS in
    7.2        L        tcp  none.n@lo                → PASS in
    v6 7.2     L        tcp  outerfar.n@lo            → PASS in
    """),
    *table("""
    v4 7.3     L        tcp  web.n@lo                 → PASS in
    v4 7.3     L        tcp  outer.n@lo               → PASS in
    v4 7.3     L        tcp  outerfar.n@lo            → PASS in
    # N's own packets are rejected too, and source ranges count before that
    6          H        tcp  none.E,V                 → REJ
    6          H        tcp  localnone.E,V            → REJ
    6          H        tcp  guardednone.V            → REJ
    6/8        B,P      tcp  guardednone.V            → DROP
    6/8        B        tcp  clientsnone.V            → DROP
    """, *ALL),
    *table("""
    v4 7.3     L        tcp  outer.n@lo               → PASS in
    """, *DETECTION[1:]),
    *table("""
    7.2        P,X,H    tcp  none.n@N2                → PASS in
    7.2        P,X,H    tcp  outerfar.n@N2            → PASS in
    7.2        L        tcp  none.n@lo                → PASS in
    7.2        L        tcp  outerfar.n@lo            → PASS in
    """, "nodePortAddresses nodes", "nodePortAddresses primary"),
    *table("""
    7.2        L        tcp  none.n@lo                → PASS in
    7.2        L        tcp  outerfar.n@lo            → PASS in
    7.1        X,H      tcp  web.n@N2                 → PASS in
    """, "no localhostNodePorts"),
    *table("""
    v4 7.3     L        tcp  web.n@lo                 → PASS in
    """, "nodePortAddresses IPv6", "nodePortAddresses loopback"),
]  # fmt: skip

#: what is otherwise in ipvs mode: PP-10, IPVS-3.5, IPVS-8, IPVS-11.5. No kernel has confirmed it
IN_IPVS = [
    *table("""
    # only endpoints on N are in the hairpin set, whose masquerade keeps the port if it is free (IPVS-8.4)
    v4 1.6/12.2 a1      tcp  web.C                    → a1 masq as 10.180.0.1:40000, b1 keep
    v6 1.6/12.2 a1      tcp  web.C                    → a1 masq as fd00:180::1:40000, b1 keep
    v4 1.6     a1       tcp  web.E,V,n                → a1 masq as 10.180.0.1:40000, b1 masq
    v6 1.6     a1       tcp  web.E,V,n                → a1 masq as fd00:180::1:40000, b1 masq
    v4 1.6     a1       tcp  outer.E,V,n              → a1 masq as 10.180.0.1:40000
    v6 1.6     a1       tcp  outer.E,V,n              → a1 masq as fd00:180::1:40000
    v4 1.6     a1       tcp  here.C                   → a1 masq as 10.180.0.1:40000
    v6 1.6     a1       tcp  here.C                   → a1 masq as fd00:180::1:40000
    1.6        b1       tcp  web.C                    → a1 b1 keep
    # service addresses are N's own, so all their other ports and protocols are refused
    2          P,Q,X,H  tcp  web.C:81                 → REJ
    2          P,X,H    tcp  web.E,V:81               → REJ
    2          P,X,H    udp  web.C:80                 → REJ
    2          P        tcp  dns.C                    → REJ
    2          P        sctp web.C                    → REJ
    2          P,X,H    icmp web.C                    → REJ
    # no virtual server is on a loopback address
    v4 7.4     X,P      tcp  web.n@lo                 → DROP martian destination
    v4 7.4     X        tcp  outer.n@lo               → DROP martian destination
    v4 7.4     X        tcp  lo:22                    → DROP martian destination
    v4 7.4     X        tcp  none.n@lo                → DROP martian destination
    v4 7.4     X        tcp  outerfar.n@lo            → DROP martian destination
    v4 7.4     H@N      tcp  lo:22                    → PASS in
    # but what has the port of a node port at an address of N is masqueraded (IPVS-8.7)
    v4 7.4     H@N      tcp  web.n@lo                 → PASS in as tcp 192.168.0.2:1024 → 127.0.0.1:30001
    v6 7.2     L        tcp  outerfar.n@lo            → PASS in
    7.1        P        tcp  outer.n@N2               → a1 keep
    7.2        X        tcp  outerfar.n@N2            → b1 b2 keep
    7.2        L        tcp  none.n@lo                → PASS in
    12.6       X        tcp  t3.V                     → b1 keep
    """),
    *table("""
    # a process of N speaks from the service address itself
    1.6        H        tcp  host.C                   → h1 h2 masq
    3.2/12.1   H        tcp  web.C                    → a1 b1 masq
    3.2/12.1   H        tcp  inner.C                  → a1 masq
    3.2        H        tcp  local.C                  → a1 masq
    3.2        H        tcp  private.C                → a1 b1 masq
    """, "no detector"),
    *table("""
    v4 1.5     H        tcp  host.n                   → h1 masq as 192.168.0.2:40000, h2 masq
    v6 1.5     H        tcp  host.n                   → h1 masq as 2001:db8::2:40000, h2 masq
    """, "detector", "no detector"),
    *table("""
    # under the policy Local all sources have the same endpoints, and keep their address
    1.2        P,H,H@cni tcp outer.E,V,n              → a1 keep
    v4 1.2     L        tcp  outer.n@lo               → PASS in
    """, *DETECTION),
    *table("""
    1.2/5.5    Q        tcp  outer.E,V,n              → a1 keep
    """),
    *table("""
    1.2/5.5    Q        tcp  outerfar.E,V,n           → b1 b2 keep
    """, *DETECTION[1:]),
    *table("""
    # without local endpoints the policy Local falls back to all, and without any ip_vs refuses
    3.1        P,Q      tcp  far.C                    → b1 b2 keep | b1 b2 keep | b1 b2 masq | b1 b2 masq
    3.1        X        tcp  far.C                    → b1 b2 masq | b1 b2 keep | b1 b2 masq | b1 b2 masq
    3.1        H        tcp  far.C                    → b1 b2 masq
    3.1        P        tcp  innerfar.C               → b1 b2 keep | b1 b2 keep | b1 b2 masq | b1 b2 masq
    3.1        X        tcp  innerfar.C               → b1 b2 masq | b1 b2 keep | b1 b2 masq | b1 b2 masq
    3.1        H        tcp  innerfar.C               → b1 b2 masq
    3.1        P,X,H    tcp  privatefar.C             → REJ
    5/12.1     H        tcp  outer.E,V,n              → a1 keep
    5          X        tcp  outerfar.E,V,n           → b1 b2 keep
    5.1        H        tcp  outerfar.E,V,n           → b1 b2 keep
    5          X,H      tcp  far.E,V,n                → b1 b2 keep
    v4 4/12.1  L        tcp  web.n@lo                 → PASS in
    v4 5/12.1  L        tcp  outer.n@lo               → PASS in
    v4 5.1/7.3 L        tcp  outerfar.n@lo            → PASS in
    # N's own packets do not leak, and source ranges count before ip_vs refuses
    6          H        tcp  none.E,V                 → REJ
    6          H        tcp  localnone.E,V            → REJ
    6          H        tcp  guardednone.V            → REJ
    6/8        B,P      tcp  guardednone.V            → DROP
    6/8        B        tcp  clientsnone.V            → DROP
    """, *ALL),
    *table("""
    5/12.1     P,Q      tcp  outer.E,V,n              → a1 keep
    5          P        tcp  local.E,V,n              → a1 keep
    5          P        tcp  hostlocal.E,V,n          → h1 keep
    8          X,H      tcp  guardedfar.V             → b1 b2 keep
    8          H        tcp  guardedlocal.V           → a1 keep
    # N's own packets are filtered only if the ranges leave the node IP out, whatever their source
    8          H@N2     tcp  guarded.V                → a1 b1 masq
    v4 8/12.4  OWN      tcp  guarded.V                → DROP martian source
    v4 8       OWN      tcp  clientsonly.V            → DROP martian source
    """, "detector", "masqueradeAll"),
    *table("""
    5.1        P        tcp  outerfar.E,V,n           → b1 b2 keep
    5          P        tcp  far.E,V,n                → b1 b2 keep
    """, "no detector", "masqueradeAll, no detector"),
    *table("""
    v4 7.1     L        tcp  web.n@lo                 → PASS in
    """, "detector", "nodePortAddresses IPv6", "nodePortAddresses loopback"),
    *table("""
    7.2        L        tcp  none.n@lo                → PASS in
    7.2        L        tcp  outerfar.n@lo            → PASS in
    7.2        P,X      tcp  none.n@N2                → PASS in
    7.2        P,X,H    tcp  outerfar.n@N2            → PASS in
    v4 7.1/12.7 H       tcp  web.n@N2                 → PASS in as tcp 192.168.0.2:1024 → 192.168.1.2:30001
    v6 7.1/12.7 H       tcp  web.n@N2                 → PASS in as tcp [2001:db8:1::2]:1024 → [2001:db8:1::2]:30001
    v4 7.2     H        tcp  none.n@N2                → PASS in as tcp 192.168.0.2:1024 → 192.168.1.2:30002
    v6 7.2     H        tcp  none.n@N2                → PASS in as tcp [2001:db8:1::2]:1024 → [2001:db8:1::2]:30002
    """, "nodePortAddresses nodes", "nodePortAddresses primary"),
    *table("""
    7.2        L        tcp  none.n@lo                → PASS in
    7.2        L        tcp  outerfar.n@lo            → PASS in
    """, "no localhostNodePorts"),
    *table("""
    v4 7.1     H        tcp  web.n@N2                 → PASS in as tcp 192.168.0.2:1024 → 192.168.1.2:30001
    """, "nodePortAddresses IPv4"),
    *table("""
    v6 7.1     H        tcp  web.n@N2                 → PASS in as tcp [2001:db8:1::2]:1024 → [2001:db8:1::2]:30001
    """, "nodePortAddresses IPv6"),
]  # fmt: skip

#: the tables of the other modes: each says only what differs from ``ROWS``, and why
IN_OTHER_MODES = {Mode.NFTABLES: IN_NFTABLES, Mode.IPVS: IN_IPVS}
