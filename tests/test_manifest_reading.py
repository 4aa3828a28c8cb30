"""Reading files: formats, places, and hostile input, which never causes a traceback."""

import codecs
import os
from pathlib import Path

import pytest

from kpsim.errors import InputError, Problem
from kpsim.manifests import begins_recording, is_recording, load_manifests
from kpsim.manifests.other_outputs import what_else

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n"
JSON_SERVICE = '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "%s"}, "spec": {"ports": [{"port": 80}]}}'


def problems(path: Path, content: bytes | str) -> list[Problem]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        load_manifests([path])
    return list(caught.value.problems)


def loaded_names(path: Path, content: bytes | str) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [service.metadata.name for service in load_manifests([path]).cluster.services]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (BOMB, 5, "aliases stand for more than 100,000 values"),
        ("a: &a [*a]\n", 1, "refers to no finished anchor"),
        ("a: *nowhere\n", 1, "refers to no finished anchor"),
        (bytes(range(256)), 2, "no UTF-8 text"),
        (b"# ok\na: \xe9\n", 2, "no UTF-8 text"),
        (b"kind: \x00\n", 1, "control characters are not allowed"),
        ("kind: x\n\tspec: y\n", 2, "tab"),
        ("a: " + "[" * 300 + "]" * 300, 1, "nested deeper than 200 levels"),
        ("metadata:\n  name: {{ .Values.name }}\n", 2, "a template that was not rendered"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "python/object/apply:os.system has no meaning"),
        ("a: .nan\n", 1, ".nan is no number of JSON"),
        ("a: " + "9" * 5000, 1, "an integer of 5000 digits"),
        ("hello", 1, "expected a Kubernetes object, got the string 'hello'"),
        ("[" * 9 + "]" * 9, 1, "lists inside each other"),
        ("kind: Service\n", 1, "needs an apiVersion: v1"),
        ("metadata: {name: x}\n", 1, "needs a kind"),
        ("apiVersion: v1\nitems: []\n", 1, "the file may be cut off"),
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands twice"),
        ("yes: 1\n", 1, "put it in quotes"),
        ("apiVersion: v1\nkind: List\nitems: {}\n---\nitems: [\n", 6, "no YAML"),
    ],
    ids=lambda value: None if isinstance(value, int) else str(value)[:30],
)
def test_refused_yaml(tmp_path: Path, content: bytes | str, line: int, words: str) -> None:
    found = problems(tmp_path / "hostile.yaml", content)
    assert any(problem.line == line and words in problem.message for problem in found), found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
        ("[" * 900 + "]" * 900, "lists inside each other"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": ' + "9" * 5000 + "}", "an integer of thousands of digits"),
        ('{"kind": "Service"', "no JSON: Expecting ',' delimiter"),
        (JSON_SERVICE % "web" + " trailing", "no JSON"),
        (JSON_SERVICE % "web", "stands twice"),
        (JSON_SERVICE % "\\ud800\\u001b[2J", "made of lower-case letters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refused_json(tmp_path: Path, content: str, words: str) -> None:
    if words == "stands twice":
        content = content.replace('"kind": "Service"', '"kind": "Service", "kind": "Service"')
    found = problems(tmp_path / "hostile.json", content)
    assert any(words in problem.message for problem in found), found
    assert all(str(problem).isprintable() for problem in found)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_their_marks(tmp_path: Path, encoding: str) -> None:
    assert loaded_names(tmp_path / "web.yaml", SERVICE.encode(encoding)) == ["web"]
    assert loaded_names(tmp_path / "web.json", (JSON_SERVICE % "web").encode(encoding)) == ["web"]


@pytest.mark.parametrize("content", ["", "\n# nothing\n---\n---\n"])
def test_an_empty_file_is_noted(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.yaml").write_text(content)
    loaded = load_manifests([tmp_path])
    assert any("holds no document" in note for note in loaded.notes)


def test_several_json_objects_in_a_row_and_flow_yaml(tmp_path: Path) -> None:
    assert loaded_names(tmp_path / "two.json", JSON_SERVICE % "a" + "\n" + JSON_SERVICE % "b") == ["a", "b"]
    assert loaded_names(tmp_path / "flow.yaml", "{apiVersion: v1, kind: List, items: []}") == []
    assert loaded_names(tmp_path / "windows.yaml", SERVICE.replace("\n", "\r\n")) == ["web"]


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: &spec {ports: [{port: 80}]}}\n"
        "- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {<<: *spec, sessionAffinity: ClientIP}}\n"
    )
    path = tmp_path / "anchors.yaml"
    path.write_text(text)
    a, b = load_manifests([path]).cluster.services
    assert [port.port for port in b.ports] == [port.port for port in a.ports] == [80]
    assert (a.session_affinity, b.session_affinity) == ("None", "ClientIP")


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("12:30:45", "12:30:45"),  # no sexagesimal numbers
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),  # times stay strings
        ("1.2.3", "1.2.3"),
        ("0x", "0x"),
        ("'no'", "no"),
        ("!!str 80", "80"),
        ("y", "y"),
    ],
)
def test_scalars_that_are_strings(tmp_path: Path, scalar: str, value: str) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(SERVICE.replace("{name: web}", f"{{name: web, labels: {{a: {scalar}}}}}"))
    (service,) = load_manifests([path]).cluster.services
    assert service.metadata.labels == {"a": value}


@pytest.mark.parametrize("scalar", ["no", "On", "TRUE", "080", "0644", "1_000", "80", "1.5", "0x1F", "null"])
def test_scalars_that_are_not(tmp_path: Path, scalar: str) -> None:
    text = SERVICE.replace("{name: web}", f"{{name: web, labels: {{a: {scalar}}}}}")
    (problem,) = problems(tmp_path / "web.yaml", text)
    assert problem.path == ".metadata.labels.a" and "expected a string" in problem.message


def test_a_file_mode_with_leading_zero_is_nobodys_business(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {volumes: [{secret: {defaultMode: 0644}}]}\n"
    (tmp_path / "pod.yaml").write_text(text)
    assert [pod.metadata.name for pod in load_manifests([tmp_path]).cluster.pods] == ["p"]


# ------------------------------------------------------------------------------------------------------------ the paths


def test_directories_are_read_recursively_and_files_once(tmp_path: Path) -> None:
    nested = tmp_path / "a" / "b"
    nested.mkdir(parents=True)
    (nested / "one.yml").write_text(SERVICE)
    (tmp_path / "two.json").write_text(JSON_SERVICE % "two")
    (tmp_path / "notes.txt").write_text("no manifest")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "link.yaml").symlink_to(nested / "one.yml")
    (tmp_path / "loop").symlink_to(tmp_path)
    loaded = load_manifests([tmp_path, tmp_path / "two.json"])
    assert [service.metadata.name for service in loaded.cluster.services] == ["two", "web"]


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    paths = [tmp_path / "missing.yaml", tmp_path / "empty", tmp_path / "ring", "a\0b", "-"]
    with pytest.raises(InputError) as caught:
        load_manifests(paths)
    words = ["No such file", "holds no manifest", "symbolic links", "embedded null", "cannot be read"]
    assert len(caught.value.problems) == len(words)
    for problem, expected in zip(caught.value.problems, words, strict=True):
        assert expected in problem.message


def test_json_problems_have_a_path_and_a_line(tmp_path: Path) -> None:
    text = '{"apiVersion": "v1", "kind": "List", "items": [\n{},\n' + JSON_SERVICE % "web" + "\n]}"
    first, second = problems(tmp_path / "list.json", text.replace("80", '"80"'))
    assert (first.line, first.path) == (2, ".items[0].kind")
    assert (second.line, second.path) == (3, ".items[1].spec.ports[0].port")


@pytest.mark.parametrize(
    ("content", "recording"),
    [
        (b'{"type": "CONFIG", "object": {}}\n', True),
        (b'{"type":"ADDED","object":{"kind":"Service"}}\n{"type":"MODIFIED"}\n', True),
        (b'{"type":"ADDED","object":"' + b"x" * (1 << 20) + b'"}', True),
        (codecs.BOM_UTF8 + b'\n{"type": "BOOKMARK"}', True),
        (b'{"type": "other"}', False),
        (b'{\n"type": "ADDED"}', False),
        (SERVICE.encode(), False),
        (b"[1]", False),
        (b"\xff\xfe\x00", False),
        (b"", False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_is_recording(tmp_path: Path, content: bytes, recording: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert is_recording(path) is recording


def test_messages_stay_short_and_few(tmp_path: Path) -> None:
    text = "".join(f"---\n{{apiVersion: v1, kind: Node, metadata: {{name: {'X' * 9000}}}}}\n" for _ in range(600))
    found = problems(tmp_path / "many.yaml", text)
    assert str(found[-1]) == "and 100 problems more"
    assert max(len(problem.message) for problem in found) < 700


def test_a_pipe_is_not_used_up_by_the_question_what_it_holds(tmp_path: Path) -> None:
    """As shells give them to programs: kpsim rules <(kubectl get …)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0) as writer:
        writer.write(b'{"type": "CONFIG", "object": {}}\n')
        assert not is_recording(pipe)
        with pipe.open("rb", buffering=0) as reader:
            assert begins_recording(reader.read(100))


def test_is_recording_of_nothing(tmp_path: Path) -> None:
    assert not is_recording(tmp_path)
    assert not is_recording(tmp_path / "missing")
    assert not is_recording(os.devnull)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Name:              web\nNamespace:         default\nSelector:          app=web\nIP:                10.96.0.9\n", "kubectl describe"),
        ("Name:               n1\nRoles:              <none>\nLabels:             a=b\n                    c=d\nTaints: <none>\n", "kubectl describe"),
        ("NAME         TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE\nkubernetes   ClusterIP   10.96.0.1    <none>        443/TCP   5d\n", "kubectl get"),
        ("NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE\na           b      1/1     Running   0          5d\n", "kubectl get"),
        ("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", "--rules"),
        ("# Generated by iptables-save v1.8.9\n*nat\nCOMMIT\n", "--rules"),
        ("-P INPUT ACCEPT\n-A INPUT -j DROP\n", "--rules"),
        ("-A KUBE-SVC-X -j KUBE-SEP-Y\n", "--rules"),
        ("table inet filter {\n\tchain input {\n\t}\n}\n", "nft list ruleset"),
    ],
)  # fmt: skip
def test_the_output_of_another_command_is_named_with_what_to_give(tmp_path: Path, text: str, words: str) -> None:
    given = tmp_path / "given.txt"
    given.write_text(text)
    with pytest.raises(InputError) as caught:
        load_manifests([given])
    [problem] = caught.value.problems
    assert words in str(problem) and str(problem).startswith(f"{given}: th")


@pytest.mark.parametrize("text", ["Name: web\n", "NAME: X\n", "name: a\nnamespace: b\n", "- a\n", "-v=2\n"])
def test_other_texts_are_not_taken_for_one(text: str) -> None:
    assert what_else(text) is None
