"""Asks nft how it lists statements and documents and prints them as JSON, and writes the answers into the recordings.

``python -m tests.nft_recording`` (as root) records ``nft_forms.txt``, ``nft_more_forms.txt`` and ``nft_documents.txt`` of
``tests/dialects`` anew. What is sent stays.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fuzz.nft_oracle import NftOracle
from tests.nft_documents import PATH, documents
from tests.nft_forms import FILES, HERE, Place, commands

Answer = tuple[str, list[Any]]  #: a rule as it is listed, and its trees


def asked(oracle: NftOracle, place: Place, statements: Sequence[str]) -> list[Answer]:
    """How nft lists the statements in one chain. AssertionError if it refuses one."""
    complaint = oracle.complaint(commands(place, statements))
    assert complaint is None, complaint
    listed, trees = oracle.listed("-s"), oracle.listed("-j")
    assert listed is not None
    assert trees is not None
    entries = [each["rule"] for each in json.loads(trees)["nftables"] if "rule" in each]
    return list(zip(_rules(listed), (each["expr"] for each in entries if each["chain"] == "c"), strict=True))


def _rules(listed: str) -> Iterator[str]:
    """The rules of chain ``c``."""
    lines = iter(listed.splitlines())
    for line in lines:
        if line == "\tchain c {":
            break
    next(lines)
    for line in lines:
        if line == "\t}":
            return
        yield line.strip()


def record(path: Path) -> None:
    """Writes a file anew."""
    lines = [line for line in path.read_text().splitlines() if line[:2] not in ("L ", "J ")]
    place, of = Place("", "", ""), dict[Place, list[str]]()
    for line in lines:
        if line.startswith("S "):
            of.setdefault(place, []).append(line[2:])
        elif line and not line.startswith("#"):
            place = Place(*line.split())
    with closing(NftOracle()) as oracle:
        answers = {each: iter(asked(oracle, each, statements)) for each, statements in of.items()}
    written: list[str] = []
    for line in lines:
        written.append(line)
        if line.startswith("S "):
            listed, trees = next(answers[place])
            written += [f"L {listed}", f"J {json.dumps(trees, separators=(',', ':'))}"]
        elif line and not line.startswith("#"):
            place = Place(*line.split())
    path.write_text("\n".join(written) + "\n")


def record_documents() -> None:
    """Writes the file of documents anew."""
    head = PATH.read_text().partition("### ")[0]
    with closing(NftOracle()) as oracle:
        written = "".join(f"### {each.name}\n{each.sent}{_recorded(oracle, each.sent)}" for each in documents())
    PATH.write_text(head + written)


def _recorded(oracle: NftOracle, text: str) -> str:
    complaint = oracle.complaint(text)
    assert complaint is None, complaint
    return f"--- listed\n{oracle.listed()}--- JSON\n{str(oracle.listed('-j')).strip()}\n"


if __name__ == "__main__":
    for name in FILES:
        record(HERE / name)
    record_documents()
