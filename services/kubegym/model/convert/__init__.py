"""OpenAI Responses <-> Chat Completions, as NeMo Gym's contract has it (section 6). Pure: no clock, no random, no I/O.

``chat_request`` (request.py) turns create-params into the body of a chat call, ``read_completion`` (reply.py) turns the
reply into a Responses object. Both work on plain dicts as they come from the wire and copy only what they change; they
run once a model call.

Reasoning goes both ways: what a model thought comes as ``reasoning_content`` (an endpoint with a reasoning parser) or
between think tags (one without), becomes a reasoning item, and is given back with the history in the chosen style.
"""

from kubegym.model.convert.reply import Completion, overflow_completion, read_completion
from kubegym.model.convert.request import ReasoningStyle, chat_messages, chat_request
from kubegym.model.convert.tags import split_thoughts

__all__ = [
    "Completion",
    "ReasoningStyle",
    "chat_messages",
    "chat_request",
    "overflow_completion",
    "read_completion",
    "split_thoughts",
]
