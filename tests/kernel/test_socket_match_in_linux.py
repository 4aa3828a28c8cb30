"""Which sockets ``-m socket`` finds in Linux for a first packet (K-20.3). The model's answers: tests/test_socket_match.py."""

import json
import subprocess
import sys

import pytest

RULES = """\
*mangle
:INPUT ACCEPT [0:0]
-A INPUT -p tcp --syn -m socket -m comment --comment bound
-A INPUT -p tcp --syn -m socket --nowildcard -m comment --comment any
-A INPUT -p udp -m socket -m comment --comment bound
-A INPUT -p udp -m socket --nowildcard -m comment --comment any
COMMIT
"""
SCRIPT = r"""
import json, re, socket, subprocess
from contextlib import suppress

def run(*command, text=None):
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

run("ip", "link", "set", "lo", "up")
run("ip", "address", "add", "10.9.9.1/32", "dev", "lo")
run("iptables-restore", text=RULES)

def met():
    found = {"bound": 0, "any": 0}
    for line in run("iptables", "-t", "mangle", "-vnxL", "INPUT").splitlines():
        if comment := re.search(r"/\* (\w+) \*/", line):
            found[comment[1]] += int(line.split()[0])
    return found

TCP, UDP, V4, V6 = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6
LISTENERS = [(V4, TCP, "0.0.0.0", 8001), (V4, TCP, "10.9.9.1", 8002), (V6, TCP, "::", 8003), (V4, TCP, "127.0.0.1", 8004),
             (V4, UDP, "0.0.0.0", 9001), (V4, UDP, "10.9.9.1", 9002)]
kept = []
for family, kind, address, port in LISTENERS:
    kept.append(socket.socket(family, kind))
    kept[-1].bind((address, port))
    if kind == TCP:
        kept[-1].listen()
answers = {}
for kind, port in ((TCP, 8001), (TCP, 8002), (TCP, 8003), (TCP, 8004), (TCP, 8009), (UDP, 9001), (UDP, 9002), (UDP, 9009)):
    before = met()
    with socket.socket(V4, kind) as client, suppress(OSError):
        client.connect(("10.9.9.1", port))
        if kind == UDP:
            client.send(b"x")
    after = met()
    answers[port] = [name for name in after if after[name] > before[name]]
print(json.dumps(answers))
"""


@pytest.mark.kernel
def test_a_first_packet_finds_a_listener(kernel: None) -> None:
    script = f"RULES = {RULES!r}\n{SCRIPT}"
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "8001": ["any"], "8002": ["bound", "any"], "8003": ["any"], "8004": [], "8009": [],
        "9001": ["any"], "9002": ["bound", "any"], "9009": [],
    }  # fmt: skip
