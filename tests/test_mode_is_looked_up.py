"""Apart from the configuration, only the table of backends decides by the name of a proxy mode."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kpsim
from kpsim.config import Mode

PACKAGE = Path(kpsim.__file__).parent
NAMES = {str(mode) for mode in Mode}  #: as they stand in a configuration
MEMBERS = {mode.name for mode in Mode}  #: as they stand in code

#: where a mode may be named: what it means to read a configuration, which module plays which mode, what is known of a
#: change from one to another, and of the differences between two
HOME = ("config.py", "backends/table.py", "migration/table.py", "comparison/behaviour/reasons.py", "startup/modes.py")

#: where ``iptables`` is not the mode but a section of a KubeProxyConfiguration, or the name of a tool and of its dialect
OTHER_MEANINGS = (
    "manifests/proxy_config.py", "manifests/proxy_flags.py", "manifests/installers.py", "verify/drawing/clusters.py", "dialects/__init__.py",
    "dialects/iptables/dialect.py", "backends/ipvs/__init__.py",
    "comparison/behaviour/reasons_of_ipvs.py", "dialects/iptables/saved.py", "dialects/iptables/options.py", "dialects/nft/json_form.py", "verify/intent/settings.py",
    "verify/intent/judging.py", "scenario/fault_schema.py", "lab/tools/variants.py", "lab/tools/iptables.py", "lab/tools/nft.py",
    "backends/work.py", "calibration/subjects.py",
)  # fmt: skip
#: where one dialect may be imported: a backend writes for one tool, a tool of the lab loads rules with one tool
OF_ONE_TOOL = ("backends/", "dialects/", "lab/tools/")


def offences(source: str, file: str) -> Iterator[str]:
    """What in a module's text decides by the name of a mode, or reaches into one mode's modules."""
    home = file in HOME
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(ast.Name("Mode"), member) if member in MEMBERS and not home:
                yield f"{file}:{node.lineno}: Mode.{member}"
            case ast.Compare(left, _, others) if any(map(_names_a_mode, (left, *others))):
                yield f"{file}:{node.lineno}: compares with the name of a mode"
            case ast.MatchValue(ast.Constant(str(value))) if value in NAMES:
                yield f"{file}:{node.lineno}: matches {value!r}"
            case ast.ImportFrom(module=str(module)) | ast.Import(names=[ast.alias(name=module), *_]):
                names = [f"{module}.{each.name}" for each in node.names] if isinstance(node, ast.ImportFrom) else []
                for name in (module, *names):
                    if _is_of_one(name, "kpsim.backends") and not (file.startswith("backends/") or home):
                        yield f"{file}:{node.lineno}: imports {module}"
                        break
                    if _is_of_one(name, "kpsim.dialects") and not file.startswith(OF_ONE_TOOL):
                        yield f"{file}:{node.lineno}: imports {module}"
                        break
            case _:
                pass


def names(source: str, file: str) -> Iterator[str]:
    """Where a module has the name of a mode in a text of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            yield f"{file}:{node.lineno}: {node.value!r}"


def _names_a_mode(node: ast.expr) -> bool:
    """``"iptables"``, or a tuple, list or set that has it."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(map(_names_a_mode, node.elts))
    return isinstance(node, ast.Constant) and node.value in NAMES


def _is_of_one(module: str, package: str) -> bool:
    """Whether a module is one mode's, or one dialect's, part of a package."""
    rest = module.removeprefix(f"{package}.")
    return rest != module and (PACKAGE / package.removeprefix("kpsim.") / rest.split(".")[0]).is_dir()


def test_modes_are_named_where_they_are_defined_and_looked_up() -> None:
    files = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
    named = {file for file, path in files.items() if [*names(path.read_text("utf-8"), file)]}
    assert named - set(OTHER_MEANINGS) == {"config.py"}
    assert set(OTHER_MEANINGS) - named == set()
    assert [*names('x = account.get("ipvs")', "comparison/packets.py")] == ["comparison/packets.py:1: 'ipvs'"]


def found() -> dict[str, list[str]]:
    by_file = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = str(path.relative_to(PACKAGE))
        if statements := list(offences(path.read_text(), file)):
            by_file[file] = statements
    return by_file


def test_modes_are_looked_up() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("if mode is Mode.IPVS: pass", "proxier.py"),
        ("x = {Mode.NFTABLES: 1}", "manifests/proxy_config.py"),
        ('if config.mode == "iptables": pass', "replay.py"),
        ('if config.mode in ("nftables", "ipvs"): pass', "replay.py"),
        ('match x:\n    case ("iptables", "save"): pass', "comparison/documents.py"),
        ("from kpsim.backends.iptables import IptablesBackend", "proxier.py"),
        ("from kpsim.backends.iptables.names import chain_hash", "simulation/affinity.py"),
        ("import kpsim.backends.iptables.names", "simulation/affinity.py"),
        ("from kpsim.backends import iptables", "proxier.py"),
        ("def f():\n    from kpsim.dialects.iptables import parse", "check.py"),
    ],
)
def test_what_is_not_looked_up_is_noticed(source: str, file: str) -> None:
    assert len(list(offences(source, file))) == 1


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("x = {Mode.IPVS: 1}", "backends/table.py"),
        ("from kpsim.backends.iptables import IptablesBackend", "backends/table.py"),
        ("from kpsim.backends.table import make_backend", "proxier.py"),
        ("from kpsim.dialects.iptables import Style", "backends/iptables/__init__.py"),
        ("from kpsim.dialects import dialect_of", "tracing/probes.py"),
        ('section = obj.get("iptables")', "manifests/proxy_config.py"),
        ("if mode is HintMode.NONE: pass", "kubeproxy/plan.py"),
    ],
)
def test_what_is_looked_up_is_left_alone(source: str, file: str) -> None:
    assert list(offences(source, file)) == []
