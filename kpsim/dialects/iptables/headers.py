"""Readers and writers of options about the traffic class of a packet and about the frame that it came in.

Counterpart: libxt_dscp, libxt_tos, libxt_pkttype, libxt_DSCP and libxt_TOS.
"""

from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.dialects.iptables.extensions import Arguments, Done
from kpsim.dialects.iptables.values import Form, Read, read_number
from kpsim.ruleset import Compare, Field, SetTrafficClass, equal, named

_CLASSES: Mapping[str, int] = {
    **{f"cs{number}": 8 * number for number in range(8)}, "be": 0, "ef": 46,
    **{f"af{rank}{drop}": 8 * rank + 2 * drop for rank in range(1, 5) for drop in range(1, 4)},
}  # fmt: skip
_SERVICES: Mapping[str, int] = {
    "minimize-delay": 0x10, "maximize-throughput": 0x08, "maximize-reliability": 0x04, "minimize-cost": 0x02, "normal-service": 0,
}  # fmt: skip
_SERVICE_BITS = 0x3F  #: the bits that a name of ``--tos`` stands for
_ALL_BITS, _MOST_DSCP, _ECN_BITS = 0xFF, 63, 3
_FRAMES: Mapping[str, tuple[str, ...]] = {
    "host": ("unicast", "host"), "broadcast": ("broadcast", "bcast"), "multicast": ("multicast", "mcast"), "other": ("otherhost",),
}  # fmt: skip


def _class(text: str) -> int:
    if text.lower() not in _CLASSES:
        raise ValueError(f"not a class of DSCP: {text!r}")
    return _CLASSES[text.lower()]


def _service(text: str) -> tuple[int, int]:
    """A value and the bits that it is for: ``0x10/0x3f``, ``16``, ``Minimize-Delay``."""
    if text.lower() in _SERVICES:
        return _SERVICES[text.lower()], _SERVICE_BITS
    value, slash, mask = text.partition("/")
    return read_number(value, _ALL_BITS), read_number(mask, _ALL_BITS) if slash else _ALL_BITS


def read_dscp(text: str, negate: bool, _family: Family) -> Read:
    return Read(equal(Field.DSCP, read_number(text, _MOST_DSCP), negate=negate))


def read_dscp_class(text: str, negate: bool, _family: Family) -> Read:
    return Read(equal(Field.DSCP, _class(text), negate=negate))


def write_dscp(part: Compare, _detail: None, _form: Form) -> str:
    return f"0x{part.value:02x}"


def read_tos(text: str, negate: bool, _family: Family) -> Read:
    value, bits = _service(text)
    return Read(equal(Field.TRAFFIC_CLASS, value, negate=negate, mask=None if bits == _ALL_BITS else bits))


def write_tos(part: Compare, _detail: None, _form: Form) -> str:
    return f"0x{part.value:02x}/0x{_ALL_BITS if part.mask is None else part.mask:02x}"


def read_frame(text: str, negate: bool, _family: Family) -> Read:
    for name, words in _FRAMES.items():
        if text.lower() in words:
            return Read(named(Field.FRAME, name, negate=negate))
    raise ValueError(f"not a type of frames: {text!r}")


def write_frame(part: Compare, _detail: None, _form: Form) -> str:
    return _FRAMES[str(part.name)][0]


# --- targets ----------------------------------------------------------------------------------------------------------


def read_set_dscp(arguments: Arguments, _family: Family) -> Done:
    option, text = _only(arguments, "DSCP")
    value = _class(text) if option == "--set-dscp-class" else read_number(text, _MOST_DSCP)
    return Done(SetTrafficClass(_ECN_BITS, value << 2))


def write_set_dscp(part: SetTrafficClass, _detail: None, _form: Form) -> str:
    return f"--set-dscp 0x{part.flip >> 2:02x}"


def read_set_tos(arguments: Arguments, _family: Family) -> Done:
    option, text = _only(arguments, "TOS")
    match option:
        case "--set-tos":
            flip, bits = _service(text)
        case "--and-tos":
            flip, bits = 0, _ALL_BITS ^ read_number(text, _ALL_BITS)
        case "--or-tos":
            flip = bits = read_number(text, _ALL_BITS)
        case _:
            flip, bits = read_number(text, _ALL_BITS), 0
    return Done(SetTrafficClass(_ALL_BITS ^ bits, flip))


def write_set_tos(part: SetTrafficClass, _detail: None, _form: Form) -> str:
    return f"--set-tos 0x{part.flip:02x}/0x{_ALL_BITS ^ part.keep:02x}"


def _only(arguments: Arguments, target: str) -> tuple[str, str]:
    if len(arguments) != 1:
        raise ValueError(f"-j {target} needs exactly one option")
    ((option, (text, _)),) = arguments.items()
    return option, text
