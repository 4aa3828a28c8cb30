"""README and docs/: their commands print what they show, their tables are complete, their links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENTS, ROOT, TABLE_OF, Shown, commands, output_of, tables

import kpsim
from kpsim.reports.expectations import evaluate_all, parse_expectations
from kpsim.scenario import parse_scenario
from kpsim.scenario.nodes import cluster_nodes

TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
COMMANDS = [(name, shown) for name, text in TEXTS.items() for shown in commands(text)]
TABLES = [(name, *table) for name, text in TEXTS.items() for table in tables(text)]
SUBCOMMANDS = ("run", "scenarios", "schema", "replay", "rules", "trace", "check")


@pytest.mark.parametrize(("document", "shown"), COMMANDS, ids=[f"{name}: {shown.command}" for name, shown in COMMANDS])
def test_commands_print_what_the_documents_say(document: str, shown: Shown) -> None:
    assert output_of(shown.command) == shown.output, f"{document} is out of date: make docs"


@pytest.mark.parametrize(
    ("document", "table", "content"), TABLES, ids=[f"{name}: {table}" for name, table, _ in TABLES]
)
def test_tables_are_up_to_date(document: str, table: str, content: str) -> None:
    assert content == TABLE_OF[table](), f"{document} is out of date: make docs"


def test_every_table_is_somewhere() -> None:
    assert {table for _, table, _ in TABLES} == set(TABLE_OF)


def test_the_readme_shows_every_command() -> None:
    shown = {word for name, each in COMMANDS if name == "README.md" for word in each.command.split()}
    assert set(SUBCOMMANDS) <= shown


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links_lead_somewhere(name: str) -> None:
    here = (ROOT / name).parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[name])
    assert [link for link in links if not Path(here, link).exists()] == []


def snippet(document: str, language: str, start: str) -> str:
    """The block of a document that starts so."""
    (found,) = re.findall(rf"^```{language}\n({re.escape(start)}.*?)^```$", TEXTS[document], re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(snippet("README.md", "python", "import kpsim"), names)
    assert names["result"].holds


def test_the_scenario_of_the_documents_holds(tmp_path: Path) -> None:
    file = tmp_path / "crash.yaml"
    file.write_text(snippet("docs/scenarios.md", "yaml", "apiVersion"), encoding="utf-8")
    result = kpsim.run(file)
    assert len(result.expectations) == 2
    assert result.holds, result.expectations


def test_the_kernel_settings_of_the_documents_can_be_written() -> None:
    head = "apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: documented}\nduration: 1s\n"
    scenario = parse_scenario(head + snippet("docs/scenarios.md", "yaml", "nodes:\n  hairpin"), "scenarios.md")
    first, small = cluster_nodes(scenario.spec.nodes)
    timeout, liberal = "net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_tcp_be_liberal"
    assert (first.hairpin, small.hairpin) == (False, True)
    assert (first.sysctls, small.sysctls) == ({timeout: 10}, {timeout: 10, liberal: 1})


def test_the_workload_of_the_documents_can_be_loaded() -> None:
    head = "apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: documented}\nduration: 1s\n"
    text = f"{head}nodes: {{count: 3, zones: [a, b]}}\n{snippet('docs/workloads.md', 'yaml', 'workloads:')}"
    assert parse_scenario(text, "workloads.md").notes == ()


def test_the_expectations_of_the_documents_are_some() -> None:
    conditions = re.findall(r"^  - (.*)$", snippet("docs/figures.md", "yaml", "expect:"), re.MULTILINE)
    known = kpsim.run("local-rollout").figures
    assert len(evaluate_all(parse_expectations(conditions), known)) == 4


def test_the_recording_of_the_documents_replays(tmp_path: Path) -> None:
    file = tmp_path / "docs.recording.jsonl"
    file.write_text(snippet("docs/recordings.md", "json", '{"type": "CONFIG"'), encoding="utf-8")
    cluster = kpsim.load(file)
    answer = cluster.probe(cluster.node_names[0], "172.30.0.10:80", sender="pod", src="10.180.1.9")
    assert str(answer) == "delivered 10.180.1.5:8080 1"
