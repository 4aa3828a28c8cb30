"""What lies about in directories beside manifests: files of other tools, templates, pipes; and how they are told."""

import gzip
import os
from pathlib import Path

import pytest

from kpsim.errors import InputError, Problem
from kpsim.manifests import load_manifests
from kpsim.manifests.loading import Loaded
from kpsim.manifests.yaml_reader import read_yaml

NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"


def load(folder: Path, **files: str | bytes) -> Loaded:
    (folder / "node.yaml").write_text(NODE)
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_manifests([folder])


def problems(path: Path, text: str) -> list[Problem]:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_manifests([path])
    return list(caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        "resources: [web.yaml]\n",
        "replicas: 3\nreplicas: 4\n",  # wrong in itself, and no manifest
        "on: {push: {}}\njobs: {}\n",
        "- a\n- b\n",
        "just words\n",
        "job: !reference [.rules, script]\n",
        "a: [1\n",
        "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
        "kind: pipeline\nsteps: []\n",
    ],
)
def test_a_file_of_another_tool_is_passed_over_in_a_directory_and_refused_by_name(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, other__yaml=text)
    assert [node.metadata.name for node in loaded.cluster.nodes] == ["n1"]
    assert any(f"{tmp_path}/other.yaml" in note and "passed over" in note for note in loaded.notes), loaded.notes
    assert problems(tmp_path / "alone.yaml", text)


def test_json_of_another_tool_too(tmp_path: Path) -> None:
    loaded = load(tmp_path, tsconfig__json="{// a comment\n}", package__json='{"name": "x"}')
    assert sum("passed over" in note for note in loaded.notes) == 2


@pytest.mark.parametrize(
    "text",
    [
        "kind: Service\nmetadata: {name: web}\n",  # only apiVersion was forgotten
        "apiVersion: v1\nmetadata: {name: web}\n",
        "apiVersion: v1\nkind: Servise\nmetadata: {name: web}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web\n",
        "kind: KubeProxyConfiguration\n",
    ],
)
def test_what_was_meant_to_be_a_manifest_is_refused_everywhere(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"other\.yaml"):
        load(tmp_path, other__yaml=text)


def test_pipes_and_compressed_files_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    loaded = load(tmp_path, packed__yaml__gz=gzip.compress(NODE.encode()))
    assert f"{tmp_path}/pipe.yaml passed over: a pipe, no file" in loaded.notes
    assert f"{tmp_path}/device.json passed over: a device, no file" in loaded.notes
    assert f"{tmp_path}/packed.yaml.gz passed over: compressed, decompress it first" in loaded.notes


# ------------------------------------------------------------------------------------------------------ wrong in writing

SKIPPED = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1, replicas: 2}\n"


def test_a_key_that_stands_twice_in_a_skipped_object_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    items = "".join(f"- {line}" if not n else f"  {line}" for n, line in enumerate(SKIPPED.splitlines(keepends=True)))
    for text in (NODE + "---\n" + SKIPPED, f"apiVersion: v1\nkind: List\nitems:\n{items}"):
        path.write_text(text)
        notes = load_manifests([path]).notes
        assert any(
            "the key 'replicas' stands twice in one mapping, in an object that is skipped" in note for note in notes
        )


def test_beside_a_skipped_object_it_stays_an_error(tmp_path: Path) -> None:
    twice = "- {apiVersion: v1, kind: Node, metadata: {name: a, name: b}}\n- {apiVersion: v1, kind: Role, a: 1, a: 2}\n"
    assert [problem.line for problem in problems(tmp_path / "a.yaml", twice)] == [1]
    (tmp_path / "b.json").write_text('{"apiVersion": "v1", "kind": "Secret", "data": {"a": "", "a": ""}}')
    assert any("stands twice" in note for note in load_manifests([tmp_path / "b.json"]).notes)


def test_of_several_merged_mappings_the_earlier_wins() -> None:
    """YAML's merge key: keys of mappings earlier in the list override those of later ones, and written keys override all."""
    text = "a: &a {x: 1, y: 1, z: 1}\nb: &b {x: 2, y: 2, w: 2}\nc: {<<: [*a, *b], z: 3}\n"
    (document,) = read_yaml(text)
    assert document.value["c"] == {"x": 1, "y": 1, "z": 3, "w": 2}


def test_a_tab_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "a.yaml", "kind: Node\nmetadata:\n\tname: x\n")
    assert problem.line == 3 and "begins with a tab" in problem.message


# ------------------------------------------------------------------------------------------------------------- templates


def test_every_line_of_a_template_is_told(tmp_path: Path) -> None:
    text = (
        "# {{ a comment }}\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  {{- with .x }}\n  a: {{ .y }}\n"
        "  {{- end }}\nspec: {clusterIP: ${IP}, ports: [{port: 80}]}\n"
    )
    found = problems(tmp_path / "a.yaml", text)
    assert [problem.line for problem in found] == [6, 7, 8, 9]
    assert all("a template that was not rendered" in problem.message for problem in found)


@pytest.mark.parametrize("mark", ["{{ X }}", "{% X %}", "${X}", "$X", "<YOUR_X>", "<%= x %>", "((x))", "@X_Y@"])
def test_a_value_that_is_a_template_is_told_as_one(tmp_path: Path, mark: str) -> None:
    """Also where any text would do, as in a selector, which would then select nothing."""
    for path, text in {
        ".spec.clusterIP": f"spec: {{clusterIP: '{mark}', ports: [{{port: 80}}]}}",
        ".spec.ports[0].port": f"spec: {{ports: [{{port: '{mark}'}}]}}",
        ".spec.selector['app']": f"spec: {{selector: {{app: '{mark}'}}, ports: [{{port: 80}}]}}",
    }.items():
        found = problems(tmp_path / "a.yaml", f"apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n{text}\n")
        assert [(problem.line, problem.path) for problem in found] == [(4, path.replace("['app']", ".app"))]
        assert "a template that was not rendered?" in found[0].message, found
    config = f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: '{mark}'\n"
    assert "a template that was not rendered?" in problems(tmp_path / "a.yaml", config)[0].message


def test_scripts_inside_objects_are_no_templates(tmp_path: Path) -> None:
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {alert: '{{ $labels.x }}'}}\n"
        "spec: {containers: [{name: a, args: ['echo ${HOME} $(id)'], env: [{name: X, value: '<NONE>'}]}]}\n"
    )
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {run: 'echo ${HOME} {{ .x }}'}\n"
    assert len(list(load(tmp_path, a__yaml=f"{pod}---\n{config_map}").cluster.pods)) == 1


# ----------------------------------------------------------------------------------------------------------- other forms


@pytest.mark.parametrize(
    "content",
    [
        NODE.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + NODE.encode(),
        NODE.encode("utf-16"),
        f"---\n{NODE}---\n---\n".encode(),
        b'{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}]}',
        b'{"apiVersion": "v1", "kind": "NodeList", "items": [{"metadata": {"name": "n1"}}]}',
        b'[{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}]',
    ],
)
def test_forms_of_one_node(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nodes.YAML"
    path.write_bytes(content)
    for given in (path, tmp_path):
        assert [node.metadata.name for node in load_manifests([given]).cluster.nodes] == ["n1"]
