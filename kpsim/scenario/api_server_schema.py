"""The events of a scenario file that concern the API server: it is down, slow or busy, cut off from nodes, or it ends watches."""

from typing import Annotated, Literal

from pydantic import Field

from kpsim.scenario.node_schema import Name
from kpsim.scenario.quantities import DurationNs, Part
from kpsim.units import MILLISECOND_NS

_Lasting = Annotated[DurationNs, Field(alias="for", ge=MILLISECOND_NS)]

WatchedKind = Literal["Service", "EndpointSlice", "Node", "ServiceCIDR"]


class ApiServerDown(Part):
    """The API server ends, and starts again after a while. It refuses connections meanwhile, and nobody can write.

    It comes back without history, so every watch has to list anew (CP-5.3).
    """

    lasting_ns: _Lasting


class ApiServerSlow(Part):
    """Whatever the API server takes or sends out takes longer: writes, watch events and lists."""

    by_ns: Annotated[DurationNs, Field(ge=MILLISECOND_NS)]
    lasting_ns: _Lasting


class ApiServerBusy(Part):
    """The API server answers lists and new watches of kube-proxies with 429. Writes and watches that are open go on."""

    lasting_ns: _Lasting


class CutOff(Part):
    """Nodes reach the API server no more, and it does not reach them: packets between them are lost. Nothing else is.

    Their kube-proxies go on with the rules that they have. The node lifecycle controller counts the silence (CP-2.9).
    """

    nodes: Annotated[tuple[Name, ...], Field(min_length=1)]
    lasting_ns: _Lasting


class CloseWatches(Part):
    """The API server ends watches of kube-proxies cleanly. They begin again at once where they were (CP-6.2)."""

    nodes: tuple[Name, ...] = ()
    """Default: all."""
    kinds: tuple[WatchedKind, ...] = ()
    """Default: all."""
    expired: bool = False
    """The history no longer goes back so far (410): they list anew, after a back-off (CP-6.2, CP-6.3)."""
