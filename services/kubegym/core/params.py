"""Create-params of the Responses API, as the contract knows them (1.4)."""

from __future__ import annotations

from typing import Final

CREATE_PARAMS: Final[dict[str, tuple[type, ...]]] = {
    "background": (bool,),
    "include": (list,),
    "input": (str, list),
    "instructions": (str,),
    "max_output_tokens": (int,),
    "max_tool_calls": (int,),
    "metadata": (dict,),
    "model": (str,),
    "parallel_tool_calls": (bool,),
    "previous_response_id": (str,),
    "prompt": (dict,),
    "reasoning": (dict,),
    "service_tier": (str,),
    "store": (bool,),
    "temperature": (int, float),
    "text": (dict,),
    "tool_choice": (str, dict),
    "tools": (list,),
    "top_logprobs": (int,),
    "top_p": (int, float),
    "truncation": (str,),
    "user": (str,),
    "stream": (bool,),
}
"""Field -> the types of its values in JSON; null is the same as absent. Servers refuse any other field."""
