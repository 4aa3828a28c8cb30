"""How many probes a second go through Linux and the model, including the answers to them. Needs root."""

from collections.abc import Iterator
from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.addresses import Family
from kpsim.explore import load
from kpsim.lab.requirements import obstacles
from kpsim.lab.tools.variants import Variant
from kpsim.tracing.probes import Probe, make_packet
from kpsim.tracing.site import Sender
from kpsim.verify.subjects import Subject, cluster_subjects
from kpsim.verify.verification import Verification, Verifier

_PROBES, _SERVICES = 2000, 20
_rounds = count()


def _manifest() -> str:
    """A node, and Services of three endpoints each: one pod here, two elsewhere."""
    documents = [
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nspec: {podCIDRs: [10.180.0.0/24]}\n"
        "status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n"
    ]
    for n in range(1, _SERVICES + 1):
        places = [f"10.180.0.{100 + n}", f"10.180.1.{n}", f"10.180.2.{n}"]
        entries = "\n".join(f'- {{addresses: ["{place}"], conditions: {{ready: true}}}}' for place in places)
        documents += [
            f"apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\n"
            f"spec: {{clusterIP: 172.30.0.{n}, ports: [{{name: p, protocol: TCP, port: 80}}]}}\n",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
            f"metadata: {{name: s{n}-1, namespace: shop, labels: {{kubernetes.io/service-name: s{n}}}}}\n"
            f"addressType: IPv4\nports: [{{name: p, protocol: TCP, port: 8080}}]\nendpoints:\n{entries}\n",
        ]
    return "---\n".join(documents)


@pytest.fixture
def verifier() -> Iterator[Verifier]:
    if found := obstacles(Variant.NFT, [Family.IPV4]):
        pytest.skip(str(found[0]))
    with Verifier(Variant.NFT) as made:
        yield made


def _verified(verifier: Verifier, subject: Subject) -> Verification:
    first = 20000 + next(_rounds) * 2 % 40000
    probes = [
        Probe(f"p{n}", "node-1", Sender.EXTERNAL, make_packet("TCP", f"172.30.0.{n % _SERVICES + 1}", 80, sport=first + n // _SERVICES))
        for n in range(_PROBES)
    ]  # fmt: skip
    return verifier.verify(subject, probes)


def test_probes_with_answers(benchmark: BenchmarkFixture, verifier: Verifier) -> None:
    """At least 3,000 a second."""
    [subject] = cluster_subjects(load(text=_manifest()))
    found = benchmark(_verified, verifier, subject)
    assert found.disagreements == ()
    assert (found.probes, found.answers) == (_PROBES, _PROBES)
