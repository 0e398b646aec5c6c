"""Errors of model calls.

::

    ModelError                       core.errors; one attempt of one rollout fails with it, stage "model"
    ├── ModelUnavailable             refused, lost, 5xx, until the tries were used up            retryable
    │   └── ModelAborted             the engine gave a request up (finish_reason "abort")        retryable
    ├── ModelOverloaded              429 or 503 until the patience was used up                   retryable
    ├── ModelTimeout                 no reply within the deadline                                retryable
    │   └── ModelSilent              the engine takes calls and makes no progress                retryable
    ├── ModelReplyInvalid            the reply is no chat completion; retryable for a proxy's page or cut-off JSON
    ├── ModelUnauthorized            401, 403
    ├── ModelNotFound                404, or the endpoint does not serve that model
    ├── ModelRejectedRequest         any other 4xx: the request itself is refused
    ├── ContextWindowExceeded        the conversation no longer fits; clients answer with an empty, cut-short reply
    └── RequestUnsupported           Responses params that Chat Completions has no words for
"""

from __future__ import annotations

from kubegym.core.errors import ModelError


class ModelUnavailable(ModelError):
    """The endpoint is not there, or breaks: refused or lost connections and 5xx, tried often enough."""

    reason = "ModelUnavailable"
    retryable = True


class ModelAborted(ModelUnavailable):
    """The engine gave the request up and answered with what it had: never a sample (vLLM's pause in abort mode)."""

    reason = "ModelAborted"


class ModelOverloaded(ModelError):
    """The endpoint asked to come back later (429, 503) for longer than the client waits."""

    reason = "ModelOverloaded"
    retryable = True


class ModelTimeout(ModelError):
    """No reply within the time there was."""

    reason = "ModelTimeout"
    retryable = True


class ModelSilent(ModelTimeout):
    """The engine holds calls and makes no progress, whatever it says of its health; no byte had come."""

    reason = "ModelSilent"


class ModelReplyInvalid(ModelError):
    """The reply is no chat completion. ``retryable`` where a proxy or a cut-off reply is the likely cause."""

    reason = "ModelReplyInvalid"


class ModelUnauthorized(ModelError):
    """The endpoint refused the API key, or the lack of one."""

    reason = "ModelUnauthorized"


class ModelNotFound(ModelError):
    """No such route, or no such model behind it."""

    reason = "ModelNotFound"


class ModelRejectedRequest(ModelError):
    """The endpoint refuses this request; the same request would be refused again."""

    reason = "ModelRejectedRequest"


class ContextWindowExceeded(ModelError):
    """The prompt, or prompt and answer, do not fit the model. Engines raise it; a ``ModelClient`` never does."""

    reason = "ContextWindowExceeded"


class RequestUnsupported(ModelError):
    """Responses create-params that cannot be said in Chat Completions, or that are malformed."""

    reason = "RequestUnsupported"
