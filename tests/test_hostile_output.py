"""Output under bad conditions: full disks, kills, links in the way, readers that leave, interrupts, users' settings."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from shop import cluster_text

from kpsim.cli import main
from kpsim.cli.application import app
from kpsim.cli.commands import register
from kpsim.errors import InputError, Problem, printable
from kpsim.outputs import check_directory, check_file, write_directory, write_file

register([])

SHOP = str(Path(__file__).parents[1] / "notebooks" / "shop.yaml")
KNOWN = ("page.html", "frames/a.csv", "frames/b.csv", "plots/p.png")
OLD = {name: f"old {name}".encode() for name in KNOWN}
NEW = {name: f"new {name}".encode() for name in KNOWN[:3]}


def kpsim(*arguments: object, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "kpsim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, check=False, cwd=cwd)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text())
    return file


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario of a second."""
    file = tmp_path_factory.mktemp("short") / "short.yaml"
    file.write_text(
        "apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: short}\nduration: 1s\nnodes: {count: 1}\n"
    )
    return file


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("old")
    file.chmod(0o640)
    write_file(file, "new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o640)
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory", "device"])
def test_what_is_no_file_is_in_the_way(tmp_path: Path, kind: str) -> None:
    place, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("mine")
    match kind:
        case "link":
            place.symlink_to(victim)
        case "dangling link":
            place.symlink_to(tmp_path / "nothing")
        case "fifo":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
        case _:
            place = Path("/dev/full")
    for attempt in (lambda: write_file(place, "new"), lambda: check_file(place)):
        with pytest.raises(InputError, match=f"{place}: cannot write: a .* has this name"):
            attempt()
    assert victim.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("path", ["", "a\0b", "missing/out", "file/out"])
def test_a_path_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        write_file(path, "new")
    assert names_in(tmp_path) == ["file"]


def test_what_a_killed_process_left_beside_goes_and_other_hidden_files_stay(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    number = int(gone.stdout)
    (tmp_path / f".out.kpsim-{number}-0").write_text("half")
    (tmp_path / f".out.kpsim-{os.getpid()}-0").write_text("of a process that runs")
    (tmp_path / f".other.kpsim-{number}-0").write_text("of another file")
    write_file(tmp_path / "out", "new")
    assert set(names_in(tmp_path)) == {"out", f".out.kpsim-{os.getpid()}-0", f".other.kpsim-{number}-0"}


# --- directories ------------------------------------------------------------------------------------------------------


def test_a_directory_holds_the_new_report_and_other_peoples_files(tmp_path: Path) -> None:
    place = tmp_path / "report"
    write_directory(place, OLD, KNOWN)
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").write_text("mine")
    (place / "frames" / "mine.csv").write_text("mine")
    (place / "link").symlink_to("nowhere")
    write_directory(place, NEW, KNOWN)
    others = {"notes/mine.txt": b"mine", "frames/mine.csv": b"mine"}
    assert files_of(place) == NEW | others
    assert (place / "link").readlink() == Path("nowhere")
    assert names_in(tmp_path) == ["report"]


def test_the_current_directory_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_directory(tmp_path, OLD, KNOWN)
    monkeypatch.chdir(tmp_path)
    write_directory(Path(), NEW, KNOWN)
    assert files_of(tmp_path) == NEW
    assert Path.cwd() == tmp_path
    assert names_in(Path()) == ["frames", "page.html", "plots"]


@pytest.mark.parametrize("name", ["frames", "page.html", "frames/a.csv"])
def test_a_link_inside_a_report_is_in_the_way(tmp_path: Path, name: str) -> None:
    place, victim = tmp_path / "report", tmp_path / "victim"
    victim.mkdir()
    (place / name).parent.mkdir(parents=True)
    (place / name).symlink_to(victim)
    with pytest.raises(InputError, match="a symbolic link has this name"):
        write_directory(place, NEW, KNOWN)
    assert names_in(victim) == []


def test_a_directory_is_checked_before_long_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for path in ("link", "file", "file/below/it"):
        with pytest.raises(InputError, match="cannot write"):
            check_directory(tmp_path / path)
    check_directory(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()


def test_a_directory_that_cannot_grow_keeps_the_old_report(tmp_path: Path) -> None:
    """RLIMIT_FSIZE fails a write in the middle of a file, as a full disk does."""
    place = tmp_path / "report"
    write_directory(place, OLD, KNOWN)
    large = {**NEW, "frames/b.csv": b"x" * 100_000}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(InputError, match="report: cannot write: File too large"):
            write_directory(place, large, KNOWN)
        with pytest.raises(InputError, match="File too large"):
            write_file(tmp_path / "one", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_of(place) == OLD
    assert names_in(tmp_path) == ["report"]


@pytest.mark.kernel
@pytest.mark.parametrize("inside", [False, True], ids=["below", "mount point"])
def test_a_full_disk_keeps_the_old_report(tmp_path: Path, inside: bool) -> None:
    program = f"""
import os, sys
from pathlib import Path
from kpsim.errors import InputError
from kpsim.outputs import write_directory
place = Path(sys.argv[1]){"" if inside else ' / "report"'}
known = {KNOWN!r}
old = dict.fromkeys(known, b"old" * 1000)
write_directory(place, old, known)
try:
    write_directory(place, dict.fromkeys(known, b"new" * 100_000), known)
except InputError as error:
    assert "No space left on device" in str(error), error
else:
    raise AssertionError("the disk was not full")
assert all((place / name).read_bytes() == content for name, content in old.items())
assert not [each for each in os.listdir(place) if each.startswith(".")]
write_directory(place, dict.fromkeys(known, b"new"), known)
assert all((place / name).read_bytes() == b"new" for name in known)
"""
    mount = 'mount -t tmpfs -o size=200k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", tmp_path, sys.executable, program], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_kill_at_any_moment_leaves_the_old_report_or_the_new(tmp_path: Path) -> None:
    place = tmp_path / "report"
    write_directory(place, dict.fromkeys(KNOWN, b"0"), KNOWN)
    (place / "mine.txt").write_text("mine")
    program = f"""
import sys
from itertools import count
from pathlib import Path
from kpsim.outputs import write_directory
for number in count():
    write_directory(Path(sys.argv[1]), dict.fromkeys({KNOWN!r}, b"%d" % number * 5000), {KNOWN!r})
    print(flush=True)
"""
    for attempt in range(12):
        running = subprocess.Popen([sys.executable, "-c", program, place], stdout=subprocess.PIPE)
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(attempt * 0.0007)
        running.kill()
        running.communicate()
        found = files_of(place)
        assert found.pop("mine.txt") == b"mine"
        assert sorted(found) == sorted(KNOWN)
        assert len(set(found.values())) == 1
    write_directory(place, NEW, KNOWN)
    assert names_in(tmp_path) == ["report"]


# --- commands ---------------------------------------------------------------------------------------------------------


def test_every_command_refuses_a_bad_output_path_before_it_works(tmp_path: Path, cluster: Path, short: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    trace = ("trace", cluster, "--node", "node-1", "--dst", "172.30.0.10:80")
    for path in ("", tmp_path / "link"):
        for arguments in (("run", short, "--out"), (*trace, "--pcap"), ("check", short, "--junit")):
            done = kpsim(*arguments, path)
            assert (done.returncode, done.stdout) == (2, b""), arguments
            assert b"an empty path" in done.stderr if path == "" else b"has this name" in done.stderr


#: what a command needs beside an option with a path
BESIDE = {
    "check": ("local-rollout",),
    "diff": (SHOP, SHOP),
    "migrate": (SHOP, "--to", "nftables"),
    "run": ("local-rollout",),
    "risk": (SHOP,),
    "rules": (SHOP,),
    "survey": (SHOP,),
    "trace": (SHOP, "--node", "node-1"),
    "upgrade": (SHOP,),
    "verify": (SHOP,),
}
#: what takes a path, by the name that help gives to it
PATHS = {"CLUSTER", "DIR", "FILE", "PATH", "RECORDING", "SCENARIO", "SCENARIO|CLUSTER", "[NODE=]FILE"}


def empty_paths() -> Iterator[tuple[str, ...]]:
    """A command line for each argument and option that takes a path, with an empty one."""
    for name, command in vars(typer.main.get_command(app))["commands"].items():
        for option in (param.opts[0] for param in command.params if param.metavar in PATHS):
            yield (name, *BESIDE.get(name, ()), option, "") if option.startswith("--") else (name, "")


@pytest.mark.parametrize("arguments", list(empty_paths()), ids=lambda given: f"{given[0]} {given[-2]}")
def test_an_empty_path_is_not_the_current_directory(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kpsim", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "an empty path" in said.err


def test_files_are_written_though_the_reader_is_gone(tmp_path: Path, short: Path) -> None:
    command = f"'{sys.executable}' -m kpsim run '{short}' --format json --out '{tmp_path}/report' | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "report" / "summary.json").exists()


@pytest.mark.parametrize("arguments", ["schema", "--help", "rules '{}' --node node-1"])
def test_a_reader_that_is_gone_ends_a_command_in_silence(cluster: Path, short: Path, arguments: str) -> None:
    words = arguments.format(cluster, short=short)
    command = f"'{sys.executable}' -m kpsim {words} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if not line.startswith(b"note: ")]


def test_an_interrupt_at_any_moment_is_one_line(tmp_path: Path) -> None:
    """From the first moment on, while modules are imported too."""
    begun = "import os, kpsim.cli; os.write(2, b'!'); kpsim.cli.main()"
    outcomes = set()
    for delay in (0, 0.002, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2):
        running = subprocess.Popen(
            [sys.executable, "-c", begun, "run", "local-rollout", "--out", str(tmp_path / "report")],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert running.stderr is not None
        running.stderr.read(1)
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        running.stderr.close()
        if running.wait() != -signal.SIGINT or b"kpsim" in said:  # else it had not entered kpsim yet
            outcomes.add((running.returncode, said))
        assert not [name for name in names_in(tmp_path) if name.startswith(".")]
    assert (130, b"interrupted\n") in outcomes
    assert {code for code, said in outcomes if said != b"interrupted\n"} <= {0}, outcomes


def test_no_setting_of_a_user_changes_a_byte(tmp_path: Path, short: Path) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / "matplotlibrc").write_bytes(b"font.size: 33\naxes.facecolor: red\n\xff\xfe")
    settings = {
        "MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(hostile), "MPLCONFIGDIR": "/nonexistent", "HOME": "/nonexistent",
        "PYTHONHASHSEED": "7", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "COLUMNS": "31", "LINES": "4",
        "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0",
    }  # fmt: skip
    plain = kpsim("run", short, "--out", tmp_path / "plain", cwd=tmp_path)
    odd = kpsim("run", short, "--out", tmp_path / "odd", cwd=hostile, **settings)
    assert (plain.returncode, odd.returncode) == (0, 0), odd.stderr
    assert plain.stdout == odd.stdout
    assert files_of(tmp_path / "plain") == files_of(tmp_path / "odd") != {}
    assert kpsim("trace", "--help").stdout == kpsim("trace", "--help", **settings).stdout
    assert kpsim("schema", NO_COLOR="1").stdout == kpsim("schema", **settings).stdout


# --- characters -------------------------------------------------------------------------------------------------------


EVIL = "a\x1b[31mb\x07c\x9bd\u202ee\u2066f\x7f\U000e0041"


def test_characters_that_steer_a_terminal_are_escaped_as_json_does() -> None:
    assert printable(EVIL) == r"a\x1b[31mb\x07c\u009bd\u202ee\u2066f\u007f\udb40\udc41"
    assert printable("two\nlines\tand → ünïcode 漢字", keep="\n") == "two\nlines\\tand → ünïcode 漢字"
    assert str(Problem("bad", file="a\nerror: b", line=2, path=".x\x1b")) == r"a\nerror: b:2: .x\x1b: bad"


@pytest.mark.parametrize(
    "arguments",
    [
        ("{evil}",), ("--{evil}",), ("run", "{evil}"), ("run", "local-rollout", "--set", "{evil}"), ("run", "local-rollout", "--set", "seed={evil}"),
        ("run", "{scenario}"), ("run", "{scenario}", "--format", "json"), ("check", "{scenario}"), ("check", "{evil}"),
        ("replay", "{evil}"), ("rules", "{evil}", "--node", "x"), ("rules", "{cluster}", "--node", "{evil}"),
        ("rules", "{cluster}", "--node", "node-1", "--beside", "{evil}"), ("rules", "{rules}", "--node", "node-1"),
        ("rules", "{cluster}", "--node", "node-1", "--beside", "{rules}"), ("rules", "{cluster}", "--node", "node-1", "--mode", "{evil}"),
        ("trace", "{cluster}", "--node", "node-1", "--dst", "{evil}"), ("trace", "{cluster}", "--node", "node-1", "--packet", "{evil}"),
        ("trace", "--rules", "{rules}", "--dst", "1.2.3.4:5", "--detailed"), ("trace", "--rules", "{rules}", "--dst", "1.2.3.4:5", "--interface", "{evil}=10.0.0.1"),
        ("trace", "--rules", "{rules}", "--dst", "1.2.3.4:5", "--format", "json"), ("trace", "{cluster}", "--node", "node-1", "--probes", "{scenario}"),
        ("trace", "{cluster}", "--node", "node-1", "--dst", "172.30.0.10:80", "--sysctl", "{evil}=1"), ("verify", "{evil}"),
        ("trace", "{cluster}", "--node", "node-1", "--dst", "172.30.0.10:80", "--from", "{evil}"),
    ],
)  # fmt: skip
def test_no_command_prints_what_steers_a_terminal(
    tmp_path: Path,
    cluster: Path,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scenario = tmp_path / f"{EVIL}.yaml"
    scenario.write_text(
        'apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: short}\ndescription: "a\\e[31mb\\a\\u202e\\x9b"\n'
        "duration: 1s\nnodes: {count: 1}\nexpect: ['sent == 1']\n"
    )
    rules = tmp_path / "evil.rules"
    rules.write_text(
        f'*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment "{EVIL}" -j LOG\n-A INPUT -j DROP\nCOMMIT\n'
    )
    places = {"evil": EVIL, "scenario": scenario, "rules": rules, "cluster": cluster}
    monkeypatch.setattr(sys, "argv", ["kpsim", *(argument.format(**places) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    for out in said:
        assert out.replace("\n", "").replace("\t", "").isprintable(), out
    assert ended.value.code in (0, 1, 2), said.err
    assert (said.out + said.err).strip()


def test_a_page_shows_escapes(tmp_path: Path) -> None:
    scenario = tmp_path / "evil.yaml"
    scenario.write_text(
        'apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: short}\ndescription: "a\\e[31m\\u202e"\n'
        "duration: 1s\nnodes: {count: 1}\n"
    )
    assert kpsim("run", scenario, "--out", tmp_path / "report").returncode == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert r"a\x1b[31m\u202e" in page
    assert page.replace("\n", "").isprintable()


def test_standard_output_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for refused in (check_file, check_directory):
        with pytest.raises(InputError, match="-: cannot write: standard output is not written to"):
            refused("-")
