"""Errors of model calls and of the HTTP connections below them.

::

    ModelError                       core.errors; one attempt of one rollout fails with it, stage "model"
    ├── ModelUnavailable             refused, lost, 5xx, until the tries were used up            retryable
    │   └── ModelAborted             the engine gave a request up (finish_reason "abort")        retryable
    ├── ModelOverloaded              429 or 503 until the patience was used up                   retryable
    ├── ModelTimeout                 no reply within the deadline                                retryable
    ├── ModelReplyInvalid            the reply is no chat completion; retryable for a proxy's page or cut-off JSON
    ├── ModelUnauthorized            401, 403
    ├── ModelNotFound                404, or the endpoint does not serve that model
    ├── ModelRejectedRequest         any other 4xx: the request itself is refused
    ├── ContextWindowExceeded        the conversation no longer fits; clients answer with an empty, cut-short reply
    └── RequestUnsupported           Responses params that Chat Completions has no words for

    KubeGymError
    └── HttpError                    an exchange broke; the clients turn it into a ModelError
        ├── ConnectFailed            name resolution, refused, TLS
        │   └── ConnectTimeout       no connection in time
        ├── ReadTimeout              the whole reply did not come in time
        ├── ConnectionLost           closed before the reply was whole; says whether any of it had come
        └── ProtocolError            not HTTP/1.1
            └── BodyTooLarge         more bytes than the client accepts
"""

from __future__ import annotations

from kubegym.core.errors import KubeGymError, ModelError


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


class HttpError(KubeGymError):
    """An HTTP exchange broke."""

    reason = "HttpError"
    retryable = True


class ConnectFailed(HttpError):
    """No connection: name resolution, refused, unreachable, TLS."""

    reason = "ConnectFailed"


class ConnectTimeout(ConnectFailed):
    """No connection within the connect timeout."""

    reason = "ConnectTimeout"


class ReadTimeout(HttpError):
    """The whole reply did not come in time. The connection is closed, so the server may stop working on it."""

    reason = "ReadTimeout"


class ConnectionLost(HttpError):
    """The connection ended before the reply was whole.

    Attributes:
        before_reply: no byte of the reply had come.
    """

    reason = "ConnectionLost"

    def __init__(self, message: str, *, before_reply: bool) -> None:
        super().__init__(message)
        self.before_reply = before_reply


class ProtocolError(HttpError):
    """What came is not an HTTP/1.1 response."""

    reason = "ProtocolError"


class BodyTooLarge(ProtocolError):
    """The reply's body is larger than the client accepts."""

    reason = "BodyTooLarge"
    retryable = False
