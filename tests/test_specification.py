"""Every cited code (such as K-6.8 or CP-3.1) has one place in docs/specification, and the links there lead somewhere.

Codes and places are found by their spelling. No test knows whether a place says what it is cited for.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPECIFICATION = ROOT / "docs" / "specification"
DOCUMENTS = sorted(SPECIFICATION.glob("*.md"))

CITING = ["kpsim", "tests", "benchmarks", "notebooks", "docs", "fuzz", "README.md", "ARCHITECTURE.md", "CHANGELOG.md"]
NOT_CITING = ["tests/golden", "tests/test_specification.py"]  #: recordings; codes that are made up
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".ipynb", ".txt", ".toml", ".json", ".jsonl", ".html", ".css", ".js"}

CHAPTERS = dict(re.findall(r"^\| `([A-Z]+)` \| \[[^]]*]\(([^)]+)\)", (SPECIFICATION / "README.md").read_text(), re.M))
CODE = re.compile(rf"(?<![\w-])(?:{'|'.join(CHAPTERS)})-\d+(?:\.\d+)*(?![\w-]|\.\d)")

#: a place: an anchor, and the code behind it in bold, in a heading, or first in a table row
PLACE = re.compile(r'^(?:#+ |\| )?<a id="([^"]+)"></a>(?:\*\*)?([A-Z]+-\d+(?:\.\d+)*)(?=\*\* | )', re.M)
ANCHOR = re.compile(r'<a id="([^"]+)">')
LINK = re.compile(r"\[([^]]+)]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *```.*?^ *```", re.M | re.S)
IN_CODE = re.compile(r"`[^`\n]*`")


def citing_files() -> list[Path]:
    files = []
    for name in CITING:
        path = ROOT / name
        files += [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in SUFFIXES]
    excluded = [ROOT / name for name in NOT_CITING]
    return [file for file in files if not any(file.is_relative_to(other) for other in excluded)]


def cited(texts: dict[str, str]) -> dict[str, set[str]]:
    """Codes, each with the names of the texts that cite it."""
    found: dict[str, set[str]] = {}
    for name, text in texts.items():
        for code in CODE.findall(text):
            found.setdefault(code, set()).add(name)
    return found


def places(text: str) -> list[str]:
    """The codes that have their place in a document, in its order."""
    return [code for anchor, code in PLACE.findall(text) if anchor == code.lower()]


def missing(texts: dict[str, str], documents: list[str]) -> dict[str, set[str]]:
    known = {code for text in documents for code in places(text)}
    return {code: names for code, names in cited(texts).items() if code not in known}


def repeated(documents: list[str]) -> list[str]:
    counts = Counter(code for text in documents for code in places(text))
    return [code for code, count in counts.items() if count > 1]


def slugs(text: str) -> set[str]:
    """What a link into a document may name: explicit anchors, and what GitHub makes of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.M)
    words = (re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]*>", "", heading).lower()).replace(" ", "-") for heading in headings)
    return {*words, *ANCHOR.findall(text)}


def broken_links(document: Path, text: str) -> list[str]:
    """Links of a document that lead nowhere, or whose text is another code than the one that they lead to."""
    broken = []
    for words, target in LINK.findall(IN_CODE.sub("", FENCED.sub("", text))):
        if target.startswith(("https:", "http:")):
            continue
        path, _, fragment = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        known = file.exists() and (not fragment or fragment in slugs(text if not path else file.read_text()))
        if not known or (CODE.fullmatch(words) and fragment != words.lower()):
            broken.append(target)
    return broken


TEXTS = {str(file.relative_to(ROOT)): file.read_text() for file in citing_files()}
SPECIFIED = [document.read_text() for document in DOCUMENTS]


def test_the_index_names_every_document() -> None:
    assert sorted(CHAPTERS.values()) == [document.name for document in DOCUMENTS if document.name != "README.md"]


def test_every_cited_code_has_its_place() -> None:
    assert len(cited(TEXTS)) > 300
    assert {code: sorted(names) for code, names in missing(TEXTS, SPECIFIED).items()} == {}


def test_no_code_has_two_places() -> None:
    assert repeated(SPECIFIED) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_places_stand_in_the_document_of_their_chapter(document: Path) -> None:
    text = document.read_text()
    codes = places(text)
    assert len(codes) == len(ANCHOR.findall(FENCED.sub("", text)))  # each anchor is followed by its own code
    assert {CHAPTERS[code.split("-")[0]] for code in codes} <= {document.name}
    assert codes or document.name == "README.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document, document.read_text()) == []


# --- that these tests can fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("as K-99.9 says", ["K-99.9"]), ("(CT-4.1, I-99)", ["I-99"]), ("K-6.8 … K-6.88", ["K-6.88"]), ("O-6.2.7.", ["O-6.2.7"]),
        ("KUBE-SEP-99, UTF-8, T-2a, STAGE-1", []),
    ],
)  # fmt: skip
def test_a_code_without_a_place_is_reported(text: str, codes: list[str]) -> None:
    assert missing({"made up": text}, SPECIFIED) == {code: {"made up"} for code in codes}


def test_a_place_needs_its_anchor_and_its_code() -> None:
    good = '<a id="k-99.1"></a>**K-99.1** Text.\n## <a id="k-99"></a>K-99 Title\n| <a id="k-99.2"></a>K-99.2 | cell |\n'
    assert places(good) == ["K-99.1", "K-99", "K-99.2"]
    assert (
        places('**K-99.1** Text.\n<a id="k-99.2"></a>**K-99.1** Text.\nsee <a id="k-99.3"></a>**K-99.3** there\n') == []
    )
    assert repeated([good, good[:40]]) == ["K-99.1"]


@pytest.mark.parametrize(
    "link",
    [
        "[there](#k-99)",
        "[there](10-kernel-facts.md#k-99.9)",
        "[there](99-nothing.md)",
        "[K-1](#k-1.1)",
        "[K-1](README.md)",
    ],
)
def test_a_link_that_leads_elsewhere_is_reported(link: str) -> None:
    kernel_facts = SPECIFICATION / "10-kernel-facts.md"
    assert len(broken_links(kernel_facts, kernel_facts.read_text() + link)) == 1
