"""The language of ipvsadm: what it saves and lists, and what is refused. No kernel at hand has ip_vs, so the texts are those
of ipvsadm(8) and of dumps as people print them.
"""

import pytest
from packets import ip

from kpsim.addresses import Family
from kpsim.dialects.ipvsadm import parse, reads, render
from kpsim.errors import InputError
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerFlags, VirtualServerKey

V4, V6 = Family.IPV4, Family.IPV6
FLAGS = VirtualServerFlags
SAVED = """\
-A --sctp-service 10.96.0.60:5060 -s mh -b mh-fallback,mh-port
-A -t 10.96.0.1:443 -s rr -p 10800 -M 255.255.255.0
-a -t 10.96.0.1:443 -r 172.18.0.3:6443 -m -w 1
-a -t 10.96.0.1:443 -r 172.18.0.4:6443 -m -w 0
-A -u 10.96.0.10:53 -s wlc -o
"""
SAVED6 = """\
-A -t [fd00::1]:443 -s rr -p 60 -M 64
-a -t [fd00::1]:443 -r [fd00:1::3]:6443 -m -w 3
"""
LISTED = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.1:443 rr persistent 10800 mask 255.255.255.0
  -> 172.18.0.3:6443              Masq    1      4          0
  -> 172.18.0.4:6443              Masq    0      0          7
UDP  10.96.0.10:53 wlc ops
SCTP 10.96.0.60:5060 mh (mh-fallback,mh-port)
TCP  [fd00::1]:443 rr persistent 60 mask 64
  -> [fd00:1::3]:6443             Masq    3      0          0
"""


def test_what_is_saved_is_written_again():
    found = parse(SAVED + SAVED6)
    assert (render(V4, found[V4]), render(V6, found[V6])) == (SAVED.replace("-A --sctp", "-A --sctp"), SAVED6)
    assert (
        reads(SAVED)
        and reads(LISTED)
        and not reads("-A INPUT -t nat\n")
        and not reads("create s hash:ip\nadd s 10.0.0.1\n")
    )


def test_a_listing_says_the_same_as_what_is_saved():
    assert parse(LISTED) == parse(SAVED + SAVED6)


def test_a_virtual_server_has_what_the_line_says():
    """ipvsadm(8). The last real server of a text is the newest, as if it had been restored (IPVS-11.7)."""
    servers = parse(SAVED)[V4]
    assert servers[VirtualServerKey(ip("10.96.0.1"), 443, "tcp")] == VirtualServer(
        "rr",
        24,
        FLAGS.PERSISTENT,
        10800,
        (RealServer(ip("172.18.0.4"), 6443, 0), RealServer(ip("172.18.0.3"), 6443, 1)),
    )
    assert servers[VirtualServerKey(ip("10.96.0.10"), 53, "udp")] == VirtualServer("wlc", 32, FLAGS.ONE_PACKET)
    assert servers[VirtualServerKey(ip("10.96.0.60"), 5060, "sctp")].flags == FLAGS.SCHEDULER_1 | FLAGS.SCHEDULER_2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-A -f 1 -s rr", "1: a virtual server of a firewall mark (-f) is not modelled"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 1", "2: forwarding by direct routing (-g) is not modelled, only masquerading"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -i -w 1", "2: forwarding by tunneling (-i) is not modelled, only masquerading"),
        ("-A -t 10.0.0.1:80 -s foo", "1: not a scheduler of ip_vs: foo"),
        ("-A -t 10.0.0.1:80 -s rr --pe sip", "1: a persistence engine (--pe sip) is not modelled"),
        ("-A -t 10.0.0.1:80 -s rr -x", "1: not an option of a virtual server: -x"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -x 5", "2: a threshold of connections (-x) is not modelled"),
        ("-A -t 10.0.0.1:80 -s rr\n-A -t 10.0.0.1:80 -s rr", "2: virtual server -t 10.0.0.1:80 appears twice"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.9:80 -r 10.0.0.2:80 -m", "2: there is no virtual server -t 10.0.0.9:80"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m", "3: real server 10.0.0.2:80 appears twice"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 70000", "2: weight: not a number from 0 to 65535: '70000'"),
        ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r [fd00::1]:80 -m", "2: real server [fd00::1]:80 is not of IPv4"),
        ("Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port  Conns\nTCP 10.0.0.1:80 rr\n",
         "this listing of ipvsadm leaves weights and forwarding out: give the output of ipvsadm -S -n"),
        ("-A -t 10.0.0.1:80 -s", "1: -s needs a value"),
        ("-A -w 10.0.0.1:80", "1: not an option that names a virtual server (-t, -u, --sctp-service): '-w'"),
        ("-A", "1: not an option that names a virtual server (-t, -u, --sctp-service): ''"),
        ("-A --fwmark-service 1 -s rr", "1: a virtual server of a firewall mark (--fwmark-service) is not modelled"),
        ("-C", "1: not a line of ipvsadm -S -n: -C"),
        ("-A -t 10.0.0.1:65536 -s rr", "1: port: not a number from 0 to 65535: '65536'"),
        ("-A -t 10.0.0.1:٨ -s rr", "1: port: not a number from 0 to 65535: '٨'"),
        ("-A -t 10.0.0.1:+8 -s rr", "1: port: not a number from 0 to 65535: '+8'"),
        ("-A -t [10.0.0.1]:80", "1: not ADDRESS:PORT: '[10.0.0.1]:80' (give the output of ipvsadm -S -n: -n prints numbers)"),
        ("-A -t fd00::1:80", "1: not ADDRESS:PORT: 'fd00::1:80' (give the output of ipvsadm -S -n: -n prints numbers)"),
        ("-A -t 10.0.0.1 -s rr", "1: not ADDRESS:PORT: '10.0.0.1' (give the output of ipvsadm -S -n: -n prints numbers)"),
        ("-A -t 10.0.0.1:80 -p 2678401", "1: persistent: not a number from 0 to 2678400: '2678401'"),
        ("-A -t [fd00::1]:80 -p 60 -M 129", "1: netmask: not a number from 0 to 128: '129'"),
        ("-A -t 10.0.0.1:80 -p 60 -M x", "1: not a netmask of IPv4: 'x'"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 --gatewaying",
         "2: forwarding by direct routing (--gatewaying) is not modelled, only masquerading"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 --ipip", "2: forwarding by tunneling (--ipip) is not modelled, only masquerading"),
        ("IP Virtual Server version 1.2.1\nTCP 10.0.0.1:80 rr\n-> 10.0.0.2:80 Tunnel 1 0 0",
         "3: forwarding by tunneling (Tunnel) is not modelled, only masquerading"),
        ("-A -t 10.0.0.1:80 -p 60 -M fd00::", "1: not a netmask of IPv4: 'fd00::'"),
        ("-A -t 10.0.0.1:80 -s mh -b mh-foo", "1: not a flag of a scheduler: mh-foo"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -m", "2: -r is missing"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -z", "2: not an option of a real server: -z"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80", "2: forwarding by direct routing (-g) is not modelled, only masquerading"),
        ("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -y 1", "2: a threshold of connections (-y) is not modelled"),
        ("IP Virtual Server version 1.2.1\nTCP 10.0.0.1:80 rr pe sip", "2: a persistence engine (pe sip) is not modelled"),
        ("IP Virtual Server version 1.2.1\nTCP 10.0.0.1:80 rr foo", "2: not a word of a virtual server in a listing: foo"),
        ("IP Virtual Server version 1.2.1\nTCP 10.0.0.1:80 rr\n-> 10.0.0.2:80 Route 1 0 0",
         "3: forwarding by direct routing (Route) is not modelled, only masquerading"),
        ("IP Virtual Server version 1.2.1\nTCP 10.0.0.1:80 rr\n-> 10.0.0.2:80 Foo 1 0 0", "3: not a way of forwarding: Foo"),
        ("IP Virtual Server version 1.2.1\nfoo bar", "2: not a line of ipvsadm -L -n: foo bar"),
        ("-A -t localhost:http -s rr", "1: not ADDRESS:PORT: 'localhost:http' (give the output of ipvsadm -S -n: -n prints numbers)"),
        ("-A -t 10.0.0.1:80 -s rr -p 60 -M 255.0.255.0", "1: not a netmask of IPv4: '255.0.255.0'"),
        ("Prot LocalAddress:Port Scheduler Flags\nFWM  1 rr", "2: a virtual server of a firewall mark is not modelled"),
        ("Prot LocalAddress:Port Scheduler Flags\n  -> 10.0.0.2:80 Masq 1 0 0", "2: a real server without virtual server"),
        ("IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port               CPS    InPPS   OutPPS    InBPS   OutBPS\nTCP  10.0.0.1:80 0 0 0 0 0",
         "this listing of ipvsadm leaves weights and forwarding out: give the output of ipvsadm -S -n"),
    ],
)  # fmt: skip
def test_what_is_wrong_or_not_modelled_is_refused_with_its_line(text, why):
    with pytest.raises(InputError) as caught:
        parse(f"{text}\n", file="f")
    assert str(caught.value) == ("f: " + why if why.startswith("this") else "f:" + why)


def test_long_options_and_what_is_the_usual_value():
    """ipvsadm(8): the scheduler is wlc, the weight 1, and a threshold of 0 is none."""
    text = """# saved

--add-service --tcp-service 10.0.0.2:80
-A --udp-service 10.0.0.3:53 --scheduler rr --persistent 60 --netmask 255.255.0.0 --ops
-A -t 10.0.0.1:80 --sched-flags flag-1,flag-3
--add-server --tcp-service 10.0.0.2:80 --real-server 10.1.0.1:8080 --masquerading --u-threshold 0 --l-threshold 0
-a -t 10.0.0.2:80 -r 10.1.0.1:8081 -m --weight 65535 -x 0 -y 0
"""
    assert (
        render(V4, parse(text)[V4])
        == """\
-A -t 10.0.0.1:80 -s wlc -b flag-1,flag-3
-A -t 10.0.0.2:80 -s wlc
-a -t 10.0.0.2:80 -r 10.1.0.1:8080 -m -w 1
-a -t 10.0.0.2:80 -r 10.1.0.1:8081 -m -w 65535
-A -u 10.0.0.3:53 -s rr -p 60 -M 255.255.0.0 -o
"""
    )


@pytest.mark.parametrize(
    "text",
    [
        "-A -t 10.0.0.1:80 -s sh -b sh-fallback,sh-port\n-A -t 10.0.0.1:443 -s rr\n-A -t 10.0.0.2:80 -s rr\n",
        "-A --sctp-service 10.0.0.9:1 -s rr\n-A -t 10.0.0.1:80 -s rr -p 0\n-A -u 10.0.0.1:1 -s rr -p 9 -M 0.0.0.0\n",
        "-A -t 10.0.0.1:80 -s mh -b mh-fallback,mh-port,flag-3\n-A -t 10.0.0.2:80 -s rr -b flag-1,flag-2,flag-3\n",
    ],
)
def test_a_text_in_the_form_of_ipvsadm_is_written_again(text):
    assert render(V4, parse(text)[V4]) == text


def test_what_looks_like_ipvsadm():
    assert all(
        map(reads, ["--add-service -t 1.1.1.1:1\n", "-A --fwmark-service 1\n", "Prot LocalAddress:Port Scheduler\n"])
    )
    assert not any(map(reads, ["-A INPUT -t x\n", "-A -x 1\n", "-a -t 1.1.1.1:1 -r 1.1.1.1:1\n", "IP Virtual\n"]))
    assert parse("\ufeff-A -t 10.0.0.1:80\n").keys() == {V4}
