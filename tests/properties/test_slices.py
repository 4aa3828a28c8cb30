"""Merging slices one by one gives the same endpoints as a single pass over all slices (O-6.4)."""

from hypothesis import given
from hypothesis import strategies as st
from proxiers import endpoint, endpoint_slice, slice_port

from kpsim.addresses import Family, canonical_ip, join_host_port
from kpsim.kubeproxy.trackers import ServiceKey, ServicePortName, merge_slices
from kpsim.objects import EndpointSlice

WEB = ServiceKey("shop", "web")
STATES = ("ready", "unready", "serving-terminating", "terminating")

ports = st.sampled_from([slice_port(8080), slice_port(9090), slice_port(53, "dns", "UDP"), slice_port(name=None)])
endpoints = st.builds(
    endpoint,
    st.sampled_from([f"10.180.0.{n}" for n in range(4)]),
    st.sampled_from(["a", "b"]),
    state=st.sampled_from(STATES),
)
slices = st.lists(
    st.builds(
        lambda ports, endpoints: endpoint_slice(ports=ports, endpoints=endpoints),
        st.lists(ports, max_size=3),
        st.lists(endpoints, max_size=5),
    ),
    max_size=4,
)


def in_one_pass(found: list[EndpointSlice]) -> list[tuple[ServicePortName, list[tuple[str, str, bool, bool]]]]:
    """What upstream's cache does: all endpoints of all slices, one after the other."""
    merged: dict[ServicePortName, dict[str, tuple[str, str, bool, bool]]] = {}
    for each in found:
        for port in each.ports:
            if port.name is None or not port.port:
                continue
            here = merged.setdefault(ServicePortName(*WEB, port.name, port.protocol), {})
            for source in each.endpoints:
                address = join_host_port(canonical_ip(source.addresses[0], Family.IPV4) or "", port.port)
                ended = source.terminating is True
                if address not in here or not ended:
                    here[address] = (address, source.node_name or "", source.ready is not False, ended)
    return [(key, [here[address] for address in sorted(here)]) for key, here in merged.items() if here]


@given(slices)
def test_slices_merge_as_in_one_pass(found: list[EndpointSlice]) -> None:
    for _ in range(2):  # the second time from what the slices keep
        merged = merge_slices(WEB, found, Family.IPV4)
        made = [(key, [(e.address, e.node_name, e.ready, e.terminating) for e in each]) for key, each in merged.items()]
        assert made == in_one_pass(found)
