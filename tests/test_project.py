"""What holds for the project as a whole: sizes, lightness of the core, packaging, the lock, make help."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kpsim

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kpsim"
FUZZER = ROOT / "fuzz"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_LINES = 600

# Every other module is core: a new one has to be light unless it is named here.
EDGES = {
    "__main__",
    "cli",
    "check",
    "drafting",
    "lab",
    "manifests",
    "migration",
    "recording",
    "reports",
    "retracing",
    "result",
    "risk",
    "scenario",
    "scenarios",
    "simulation",
    "startup",
    "sweeping",
    "upgrading",
    "verify",
    "wire",
}
HEAVY = {"simpy", "scapy", "pandas", "pydantic", "typer", "matplotlib", "ruamel"}


def core_modules() -> list[str]:
    """Dotted names of all core modules that exist."""
    names = []
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in EDGES:
            names.append(".".join(["kpsim", *(part for part in parts if part != "__init__")]))
    return sorted(names)


def test_no_module_is_too_long() -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for folder in (PACKAGE, FUZZER)
        for file in folder.rglob("*.py")
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_core_loads_nothing_heavy() -> None:
    modules = core_modules()
    assert {"kpsim", "kpsim.errors", "kpsim.ruleset", "kpsim.packet"} <= set(modules)
    program = f"import sys\nfor name in {modules!r}: __import__(name)\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert HEAVY & set(result.stdout.split()) == set()


def test_version_is_one() -> None:
    assert PYPROJECT["project"]["version"] == kpsim.__version__


def test_make_help_prints_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    declared = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert declared == set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    printed = subprocess.run(
        ["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True, env=environment
    ).stdout
    assert set(re.findall(r"^  make ([a-z-]+) +\S", printed, re.MULTILINE)) == declared


def test_lock_pins_every_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned: dict[str, list[str]] = {}  # several for one name if no release serves every Python
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE):
        pinned.setdefault(canonicalize_name(name), []).append(version)
    project = PYPROJECT["project"]
    wanted = [
        *PYPROJECT["build-system"]["requires"],
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["dask"],
    ]
    for requirement in map(Requirement, wanted):
        for version in pinned[canonicalize_name(requirement.name)]:
            assert version in requirement.specifier, requirement


def test_lock_names_no_place() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.findall(r"\S*(?:://|--index|--extra-index|--find-links|--trusted-host| @ )\S*", lock) == []
    entries = re.split(r"\n(?=[\w.-]+==)", lock)[1:]
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.fixture(scope="module")
def wheel_contents(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_the_package_and_its_scenarios(wheel_contents: set[str]) -> None:
    shipped = [file for file in PACKAGE.rglob("*") if file.suffix in {".py", ".yaml", ".typed"}]
    assert {str(file.relative_to(ROOT)) for file in shipped} <= wheel_contents
    assert {name.partition("/")[0] for name in wheel_contents} == {"kpsim", f"kpsim-{kpsim.__version__}.dist-info"}


def test_wheel_declares_the_command(wheel_contents: set[str]) -> None:
    assert f"kpsim-{kpsim.__version__}.dist-info/entry_points.txt" in wheel_contents
    assert PYPROJECT["project"]["scripts"] == {"kpsim": "kpsim.cli:main"}


def test_the_table_of_layers_is_the_contract() -> None:
    """ARCHITECTURE.md has a row for each layer, in the order of the contract that import-linter enforces."""
    contract = next(each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if each["id"] == "layers")
    declared = [name for layer in contract["layers"] for name in re.findall(r"\w+", layer) if name != "__main__"]
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## Layers\n")[2].partition("\n## ")[0]
    rows = [row.replace("\\|", "/").split("|") for row in section.splitlines() if row.startswith("|")]
    shown = [name for row in rows[2:] for name in re.findall(r"`(\w+)`", row[2])]
    assert sorted(shown) == sorted(declared)
    layer_of = {name: n for n, layer in enumerate(contract["layers"]) for name in re.findall(r"\w+", layer)}
    assert [layer_of[name] for name in shown] == sorted(layer_of[name] for name in shown)
