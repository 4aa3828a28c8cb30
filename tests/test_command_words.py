"""Words of a command line mean what typer makes of them, whether a schema is built for them or not."""

import subprocess
import sys
from typing import Any

import pytest
import typer
from documents import ROOT
from typer.main import get_command

from kpsim.cli import app
from kpsim.cli.commands import NAMES, register
from kpsim.cli.words import Parameter, _Words

WORDS = (
    "", "text", "json", "JSON", "Json", "iptables", "ipvs", "ipv6", "0", "3", "+3", "-1", "007", " 3", "3 ", "1_0", "3.0", "1e3", "٣", "３",
    "999999999", "9999999999", "9" * 25, "nodePort", "clusterIP", "pod", "external", "shop/web:http", "é", "\udc80", "a\0b", "true", "no",
    "warning", "risk", "markdown", "html", "csv", ".",
)  # fmt: skip


def parameters() -> list[tuple[str, Parameter, typer.Context]]:
    register(())
    root: Any = get_command(app)
    commands = [root, *(root.commands[name] for name in NAMES)]
    found = []
    for command in commands:
        context = typer.Context(command, info_name=command.name)
        found += [(f"{command.name} {each.name}", each, context) for each in command.get_params(context)]
    return found


def told(reader: Any, value: Any, param: Parameter, context: typer.Context) -> tuple[str, Any]:
    """What comes of a value: itself with its type, or the words of the error."""
    try:
        read = reader.coerce(value, param=param, ctx=context)
    except typer.BadParameter as error:
        return "wrong", error.format_message()
    return f"{type(read)} {[type(each) for each in read] if isinstance(read, list) else ''}", read


def test_every_word_of_every_option() -> None:
    for name, param, context in parameters():
        several = param.multiple or param.nargs == -1
        values: list[Any] = [None, param.get_default(context)]
        values += [(word,) for word in WORDS] + [(), WORDS[1:3]] if several else WORDS
        for value in values:
            param._runtime_param = None
            plain = told(param.get_runtime_param(), value, param, context)
            assert told(_Words(), value, param, context) == plain, (name, value)


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (
            "trace docs/scenario-init.yaml shop/web:http --from external --format json",
            ("pydantic", "simpy", "pandas", "rich"),
        ),
        (
            "replay tests/golden/iptables/small-016.recording.jsonl",
            ("pydantic", "yaml", "rich", "simpy", "kpsim.fabric"),
        ),
        ("--help", ("pydantic", "yaml", "rich", "kpsim.fabric")),
    ],
)
def test_a_short_command_imports_what_it_needs(command: str, unneeded: tuple[str, ...]) -> None:
    """Each of these takes longer to import than such a command takes to run."""
    code = (
        "import sys; from kpsim.cli import main\n"
        "try: main()\n"
        f"finally: sys.stderr.write('imported:' + ','.join(each for each in {unneeded} if each in sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *command.split()], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert ran.stderr.endswith("imported:"), ran.stderr[-200:]
