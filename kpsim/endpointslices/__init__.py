"""Makes EndpointSlices from Services and Pods: the decisions of the EndpointSlice controller (CP-3, O-10).

Counterpart: ``pkg/controller/endpointslice`` with ``k8s.io/endpointslice``. Everything is a function of its arguments,
or a small memory that the caller owns.

    pod event ──triggers──► Service to sync ──endpoints──► wanted endpoints ──packing──► drafts ──hints──► rendering ──► writes
                            └──────────────────────────── reconciler ────────────────────────────────────────────┘

Upstream's order is arbitrary where it ranges over Go maps. Here pods are ordered by name, port sets by their first pod,
slices by name.
"""

from kpsim.endpointslices.expectations import ExpectationTracker
from kpsim.endpointslices.hints import CONTROL_PLANE_LABELS, ControllerEvent, Severity, TopologyCache
from kpsim.endpointslices.packing import LABEL_MANAGED_BY
from kpsim.endpointslices.reconciler import (
    MAX_ENDPOINTS_PER_SLICE,
    Reconciliation,
    SliceWrite,
    WriteVerb,
    address_types,
    derive_slices,
    has_managed_slices,
    reconcile,
    slices_of,
)
from kpsim.endpointslices.rendering import CONTROLLER_NAME, is_managed
from kpsim.endpointslices.triggers import (
    TriggerTimeTracker,
    labels_changed,
    pod_changed,
    selects,
    services_for_pod_change,
)

__all__ = [
    "CONTROLLER_NAME",
    "CONTROL_PLANE_LABELS",
    "LABEL_MANAGED_BY",
    "MAX_ENDPOINTS_PER_SLICE",
    "ControllerEvent",
    "ExpectationTracker",
    "Reconciliation",
    "Severity",
    "SliceWrite",
    "TopologyCache",
    "TriggerTimeTracker",
    "WriteVerb",
    "address_types",
    "derive_slices",
    "has_managed_slices",
    "is_managed",
    "labels_changed",
    "pod_changed",
    "reconcile",
    "selects",
    "services_for_pod_change",
    "slices_of",
]
