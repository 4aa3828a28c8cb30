"""What ``conntrack -L`` and the kernel's own list say of connections is what the model has of the same packets (CT-3)."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from labs import agreed, rules_of, shop_subject, shot

from kpsim.addresses import Family
from kpsim.conntrack import Entry
from kpsim.explore.connections import parse_connections
from kpsim.verify.twin import Twin

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", params=list(Family), ids=lambda family: family.label)
def twin(request: pytest.FixtureRequest) -> Iterator[Twin]:
    """node-1 of the shop after packets of a client, of a pod and of the node itself."""
    subject = shop_subject(request.param)
    with closing(Twin(subject.site.machine("node-1"), request.param)) as twin:
        twin.load(rules_of(subject))
        ends = (("client", "node", 30080), ("pod", "service", 80), ("", "service", 80), ("client", "pod", 80))
        shots = [
            shot(
                request.param,
                source,
                to,
                port,
                sport=40000 + number,
                by={"client": "eth0", "pod": "cni0"}.get(source, ""),
            )
            for number, (source, to, port) in enumerate(ends)
        ]
        ping = shot(
            request.param, "client", "pod", 0, sport=77, protocol="icmp" if request.param is Family.IPV4 else "icmpv6"
        )
        ping.packet.icmp_type = 8 if request.param is Family.IPV4 else 128
        for each in twin.exchange([*shots, ping]):
            agreed(each)
        yield twin


def said(entry: Entry) -> tuple[object, ...]:
    return entry.state, entry.seen_reply, entry.assured, entry.mark, entry.src_nat, entry.dst_nat


@pytest.mark.parametrize("how", ["conntrack -L", "conntrack -L -o extended,id", "/proc/net/nf_conntrack"])
def test_the_lists_say_what_the_model_has(twin: Twin, how: str) -> None:
    namespace = twin.linux.namespace
    if how.startswith("/"):
        with namespace.entered():
            text = Path(how).read_text()
    else:
        text = namespace.run([*how.split(), "-f", "ipv4" if twin.family is Family.IPV4 else "ipv6"])
    listed = {entry[:2]: said(entry) for entry in parse_connections(text, 0).entries}
    wanted = {entry[:2]: said(entry) for entry in twin.model.conntrack if entry.original.family is twin.family}
    assert len(wanted) >= 4
    assert {key: listed.get(key) for key in wanted} == wanted
