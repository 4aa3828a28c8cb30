"""Drafts scenarios from clusters.

``pods`` finds the pods behind Services, ``groups`` and ``workloads`` make workloads of them, ``draft`` puts all parts together, ``writing`` writes YAML
with comments.
"""

from kpsim.drafting.draft import Draft, Given, draft

__all__ = ["Draft", "Given", "draft"]
