"""The whole exchange: does the client get an answer to the first packet that it sent, and from whom?

Counterpart: what a person sees who runs curl, dig or ping. The request is followed to its end over all nodes, the end
reacts, and the answer is followed back. ``fabric`` and ``netfilter`` decide what happens on the way; a :class:`World`
says who is where and what listens there.
"""

from kpsim.exchange.following import exchange, is_request
from kpsim.exchange.verdicts import Exchange, Told, Verdict, was_admitted
from kpsim.exchange.words import client_gets, why_lost
from kpsim.exchange.worlds import Absent, Answers, Closed, Http, NewFlow, Reaction, Relay, Target, Unsure, WhatIf, World

__all__ = [
    "Absent", "Answers", "Closed", "Exchange", "Http", "NewFlow", "Reaction", "Relay", "Target", "Told", "Unsure", "Verdict", "WhatIf",
    "World", "client_gets", "exchange", "is_request", "was_admitted", "why_lost",
]  # fmt: skip
