"""Removes from executed notebooks what differs from one execution to the next: times, Python, pieces of streams."""

import json
import sys
from pathlib import Path
from typing import Any


def whole_streams(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a cell printed comes in pieces, by chance: one output for each run of pieces."""
    whole: list[dict[str, Any]] = []
    for output in outputs:
        if whole and output["output_type"] == "stream" and output.get("name") == whole[-1].get("name"):
            text = "".join([*whole[-1]["text"], *output["text"]])
            whole[-1]["text"] = text.splitlines(keepends=True)
        else:
            whole.append(output)
    return whole


for name in sys.argv[1:]:
    notebook = json.loads(Path(name).read_text(encoding="utf-8"))
    notebook["metadata"]["language_info"] = {"name": "python"}
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if "outputs" in cell:
            cell["outputs"] = whole_streams(cell["outputs"])
    Path(name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
