"""The older Endpoints objects: what their controller writes of a Service's pods, and slices that mirror hand-made ones (CP-4).

Counterpart: ``pkg/controller/endpoint`` and ``pkg/controller/endpointslicemirroring``. Everything is a function of its arguments.

    pods of a Service with selector ──reconciler──► Endpoints, truncated at 1,000 addresses
    Endpoints of a Service without selector ──mirroring──► writes of EndpointSlices

Upstream orders ports and subsets by hashes. Here they are ordered by name, number and protocol.
"""

from kpsim.endpoints.mirroring import (
    ANNOTATION_LEADER,
    LABEL_SKIP_MIRROR,
    MIRROR_NAME,
    MOST_MIRRORED,
    Mirroring,
    is_mirrored,
    mirror,
    mirrored_slices,
    should_mirror,
)
from kpsim.endpoints.reconciler import LABEL_ENDPOINTS_MANAGED_BY, MOST_ADDRESSES, reconcile_endpoints, subset_of
from kpsim.endpoints.subsets import count_addresses, repacked

__all__ = [
    "ANNOTATION_LEADER",
    "LABEL_ENDPOINTS_MANAGED_BY",
    "LABEL_SKIP_MIRROR",
    "MIRROR_NAME",
    "MOST_ADDRESSES",
    "MOST_MIRRORED",
    "Mirroring",
    "count_addresses",
    "is_mirrored",
    "mirror",
    "mirrored_slices",
    "reconcile_endpoints",
    "repacked",
    "should_mirror",
    "subset_of",
]
