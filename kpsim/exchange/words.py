"""The judgement in words, for people."""

import json

from kpsim.exchange.verdicts import Exchange, Verdict
from kpsim.exchange.worlds import Http, Target
from kpsim.packet import ICMP_PROTOCOLS, Packet

_CALLS = {
    "ECONNREFUSED": "connection refused", "EHOSTUNREACH": "no route to host", "ENETUNREACH": "network unreachable",
    "EPERM": "operation not permitted", "EACCES": "permission denied", "ENOPROTOOPT": "protocol not available",
    "EMSGSIZE": "message too long", "EADDRNOTAVAIL": "no address to send from", "EINVAL": "invalid argument",
}  # fmt: skip


def client_gets(judged: Exchange) -> str:
    """What the client gets, in a sentence without a full stop."""
    told, sent = judged.told, judged.request.sent
    match judged.verdict:
        case Verdict.WORKS:
            return f"{_answer(judged)}{_by_whom(judged)}{_http(told.http)}"
        case Verdict.MISDELIVERED:
            reached = Target.of(judged.last.request.packet)
            return f"{_answer(judged)}{_by_whom(judged)}{_http(told.http)}, but {reached} is no endpoint of the Service that it dialled"
        case Verdict.REFUSED if told.http is not None:
            return f"{_http(told.http).removeprefix(': ')}{_by_whom(judged)}"
        case Verdict.REFUSED:
            return f"{_error(judged)}{f', {why_lost(judged)}' if why_lost(judged) else ''}"
        case Verdict.REQUEST_LOST | Verdict.ANSWER_LOST:
            waits = "no answer to its ping" if sent.protocol in ICMP_PROTOCOLS else "nothing, until it gives up"
            return f"{waits}: {why_lost(judged)}"
        case Verdict.UNKNOWN:
            return f"what kpsim cannot say: {judged.cause or 'a rule was met that is not modelled'}"


def why_lost(judged: Exchange) -> str:
    """Why an exchange does not work, in words. The rule is named by its table and chain."""
    what = "the answer" if judged.verdict is Verdict.ANSWER_LOST else "the request"
    if judged.verdict is Verdict.REQUEST_LOST and judged.answer is not None:
        what = "the refusal"  # a node or the end refused, and the client is not told
    at = f" on {judged.node}" if judged.node else ""
    match judged.verdict:
        case Verdict.REFUSED:
            return f"refused{at} by {judged.by}" if judged.by is not None else judged.cause
        case Verdict.REQUEST_LOST | Verdict.ANSWER_LOST if judged.by is not None:
            return f"{what} was dropped{at} by {judged.by}"
        case Verdict.REQUEST_LOST | Verdict.ANSWER_LOST if judged.misfit:
            return f"{what} is of no use to the client: {judged.cause}"
        case Verdict.REQUEST_LOST | Verdict.ANSWER_LOST:
            return f"{what} was lost{at}: {judged.cause}"
        case _:
            return judged.cause


def _answer(judged: Exchange) -> str:
    packet = judged.told.packet
    if packet is None:
        return "an answer"
    kind = {"tcp": "a SYN-ACK", "udp": "a datagram", "sctp": "an INIT ACK"}.get(packet.protocol, "an echo reply")
    return f"{kind} from {_source(packet)}"


def _by_whom(judged: Exchange) -> str:
    who = f", sent by {judged.who}" if judged.who else ""
    return who + (", if something listens there" if judged.assumed else "")


def _http(http: Http | None) -> str:
    if http is None:
        return ""
    try:
        body = json.dumps(json.loads(http.body), ensure_ascii=False)
    except ValueError:
        body = " ".join(http.body.split())
    return f": HTTP {http.status} {body}".rstrip()


def _error(judged: Exchange) -> str:
    told = judged.told
    means = f"{_CALLS.get(told.error, 'an error')} ({told.error})" if told.error else "an error that its socket ignores"
    if judged.request.sent.protocol in ICMP_PROTOCOLS and not told.error:
        means = "an error"
    if not told.with_:
        return means
    source = "" if told.packet is None else f" from {told.packet.source}"
    return f"{means} by {told.with_}{source}"


def _source(packet: Packet) -> str:
    return str(Target(packet.family, packet.protocol, packet.saddr, packet.sport if packet.protocol not in ICMP_PROTOCOLS else 0))  # fmt: skip
