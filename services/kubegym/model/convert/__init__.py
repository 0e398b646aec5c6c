"""OpenAI Responses <-> Chat Completions and Anthropic Messages. Pure: no clock, no random, no I/O.

``chat_request`` (request.py) turns create-params into the body of a chat call, ``read_completion`` (reply.py) turns the
reply into a Responses object, as NeMo Gym's contract has it (section 6). Both work on plain dicts as they come from the
wire and copy only what they change; they run once a model call. ``response_items`` (history.py) is the way back for
whole conversations; messages.py speaks Anthropic's Messages both ways; params.py judges create-params from outside.

Reasoning goes both ways: what a model thought comes as ``reasoning_content`` (an endpoint with a reasoning parser) or
between think tags (one without), becomes a reasoning item, and is given back with the history in the chosen style.
Refusals go back as text, because no chat template knows another way to show them.
"""

from kubegym.model.convert.history import response_items
from kubegym.model.convert.messages import message_of_response, messages_of_params, params_of_messages
from kubegym.model.convert.params import Sanitised, param_problems, sanitise
from kubegym.model.convert.reply import Completion, overflow_completion, read_completion, told_tokens
from kubegym.model.convert.request import ReasoningStyle, chat_messages, chat_request
from kubegym.model.convert.tags import split_thoughts

__all__ = [
    "Completion",
    "ReasoningStyle",
    "Sanitised",
    "chat_messages",
    "chat_request",
    "message_of_response",
    "messages_of_params",
    "overflow_completion",
    "param_problems",
    "params_of_messages",
    "read_completion",
    "response_items",
    "sanitise",
    "split_thoughts",
    "told_tokens",
]
