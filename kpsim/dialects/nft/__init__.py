"""The nft dialect: what kube-proxy sends to nft, what ``nft list`` and ``nft -j list`` print ⇄ :class:`~kpsim.ruleset.Ruleset`.

Counterpart: nft 1.0.1 to 1.1, and the library knftables 0.0.21 (NFT-10). A *tree* stands between rules and text: JSON in
the shape that libnftables-json(5) describes. ``writing`` makes trees of rules, ``printing`` makes text of trees, and
``commands`` makes the lines that add and delete objects.
"""
