"""Why hand-written manifests are refused (O-3.2): one fixture whose wrong lines say what is wrong with them."""

from pathlib import Path

import pytest

from kpsim.errors import InputError
from kpsim.manifests import check_object, load_manifests

FIXTURE = Path(__file__).parent / "manifests" / "refused.yaml"


def expected_problems() -> list[tuple[int, str]]:
    return [
        (number, words)
        for number, line in enumerate(FIXTURE.read_text().splitlines(), 1)
        for words in line.partition(" # ! ")[2].split(" ! ")
        if words
    ]


def test_every_wrong_line_is_reported_and_no_other() -> None:
    with pytest.raises(InputError) as caught:
        load_manifests([FIXTURE])
    problems = [(problem.line, problem.message) for problem in caught.value.problems]
    expected = expected_problems()
    unreported = [
        (line, words) for line, words in expected if not any(at == line and words in text for at, text in problems)
    ]
    unexpected = [
        (at, text) for at, text in problems if not any(at == line and words in text for line, words in expected)
    ]
    assert not unreported
    assert not unexpected
    assert len(problems) == len(expected)


def test_a_problem_names_file_document_line_path_and_object() -> None:
    with pytest.raises(InputError) as caught:
        load_manifests([FIXTURE])
    first = next(problem for problem in caught.value.problems if problem.document == 3)
    assert (first.file, first.line, first.path) == (str(FIXTURE), 34, ".spec.ports[1].name")
    assert first.message.startswith("Service default/ports: ")


def service(**spec: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def test_sloppy_addresses_of_stored_objects_stay() -> None:
    stored = service(clusterIP="172.030.0.7", clusterIPs=["172.030.0.7"], externalIPs=["203.0.113.007"])
    stored["metadata"] = {"name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "5"}
    assert check_object(stored)["spec"]["clusterIP"] == "172.030.0.7"


@pytest.mark.parametrize(
    ("name", "value"),
    [("clusterIP", ["172.30.0.7"]), ("selector", {"app": 1}), ("ports", {"port": 80}), ("ports", [None]), ("type", 5)],
)
def test_wrong_types_name_the_path(name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        check_object(service(**{name: value}), file="web.json", path=("services", 3))
    assert all((problem.path or "").startswith(f".services[3].spec.{name}") for problem in caught.value.problems)


def test_fields_that_decide_no_packet_are_accepted() -> None:
    obj = service(ports=[{"port": 80, "appProtocol": "kubernetes.io/h2c"}], publishNotReadyAddresses=True)
    obj["metadata"] = {
        "name": "web",
        "namespace": "shop",
        "managedFields": [{"manager": "kubectl"}],
        "finalizers": ["x"],
        "ownerReferences": [],
    }
    obj["status"] = {"conditions": [{"type": "Ready"}], "loadBalancer": {}}
    assert check_object(obj)["metadata"] == obj["metadata"]


def test_unknown_fields_of_a_stored_pod_are_only_noted(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    text = "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{stored}}}\nspec: {{novelty: 1}}\n"
    path.write_text(text.format(stored=", uid: u"))
    assert "ignored fields that Kubernetes 1.36 does not have: Pod .spec.novelty (1)" in load_manifests([path]).notes
    path.write_text(text.format(stored=""))
    with pytest.raises(InputError, match="there is no such field"):
        load_manifests([path])
