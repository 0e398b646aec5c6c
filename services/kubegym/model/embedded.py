"""The embedded engine: llama.cpp in this process, so that a first run needs no server, GPU or key.

It answers OpenAI chat completions as plain dicts, with no HTTP between. Continuous batching happens in llama.cpp's own
thread; a request waits for its answer in a pool thread that has let go of the GIL.

What llama.cpp does by itself and this module prevents: its sampling defaults would change the policy, its HTTP listener
would be open to the machine, its prompt cache grows to 8 GiB, and a call that still runs when the interpreter exits
crashes the process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from kubegym.core.errors import InputError, ModelError
from kubegym.model.errors import (
    ContextWindowExceeded,
    ModelRejectedRequest,
    ModelReplyInvalid,
    ModelTimeout,
    ModelUnavailable,
)

SHIPPED_MODEL = Path(__file__).with_name("tiny") / "tiny.gguf"
"""The tiny chat model of our own; ``tiny/README.md`` is its model card."""
MAX_SLOTS = 256
"""llama.cpp's limit on sequences that are decoded together."""

MOST_LIKELY = 4096
"""Tokens whose log-probs can be had at a place."""
_UNCHANGED_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
"""The model's own distribution. llama.cpp's defaults (40, 0.95, 0.05) would sample from another policy."""
_RANDOM_SEED = 2**32 - 1
"""llama.cpp keeps 32 bits of a seed, and takes this value as the wish for a random one."""
_UNREADABLE = "does not match the expected"
"""In llama.cpp's words for an answer that its own parser of tool calls cannot read: another one is drawn."""
_FIRST_REQUEST = b'{"prompt": "1", "max_tokens": 1}'


class EmbeddedEngine:
    """A GGUF model in this process that answers chat completions.

    The model is loaded by the constructor (the shipped one in 0.04 s). Requests beyond ``slots`` wait in a queue, first
    come first served. Not for use across ``fork``: the child has none of llama.cpp's threads and gets an error.

    Args:
        path: a GGUF file with a chat template; None means the shipped tiny model.
        slots: requests decoded at a time, 1 to 256.
        slot_tokens: tokens, prompt and answer together, that a request may use. Memory grows with slots * slot_tokens.
        threads: threads that decode. More than one rarely pays for small models: two cost 1.8 times the CPU time.
        name: what ``model`` says in the responses.

    Raises:
        InputError: xllamacpp is not installed, the file is missing or no model, or a number is out of its range.
    """

    def __init__(
        self,
        path: Path | None = None,
        slots: int = 64,
        slot_tokens: int = 512,
        threads: int = 1,
        name: str = "tiny",
    ) -> None:
        if not 1 <= slots <= MAX_SLOTS:
            raise InputError(f"slots must be 1 to {MAX_SLOTS}, not {slots}")
        if slot_tokens < 1 or threads < 1:
            raise InputError(f"slot_tokens and threads must be at least 1, not {slot_tokens} and {threads}")
        self.name = name
        self._slot_tokens = self.context_tokens = slot_tokens
        self._pid = os.getpid()
        self._first = path or SHIPPED_MODEL
        self._sizes = (slots, slot_tokens, threads)
        self._server = _start_server(self._first, *self._sizes)
        self._pool = ThreadPoolExecutor(slots, "kubegym-llama")
        # Runs at close(), when the engine is collected, or at exit, whichever is first; it must not hold ``self``.
        self._shut_down = weakref.finalize(self, _shut_down, self._pool, self._pid)

    async def chat(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Answer one chat completion.

        A deadline or a cancellation ends the wait at once. A request that still queues is then never run; one that is
        being decoded keeps its slot for what is left of its tokens, at most ``slot_tokens`` (about 0.1 s if alone).

        Args:
            body: create-params of chat completions; ``logprobs`` needs ``top_logprobs`` of at least 1 to have effect.
                Sampling fields that are left out do not restrict the model's own distribution. ``stream`` is refused.
            timeout: seconds for the queue and the answer together.

        Returns:
            The ``chat.completion`` object with ``usage``; tool calls are parsed. ``logprobs`` lists every token of the
            answer with its ``id``, or is missing where llama.cpp left tokens out.

        Raises:
            ContextWindowExceeded: the prompt alone is longer than a slot (status 400).
            ModelRejectedRequest: the engine refuses a field (status 400).
            ModelTimeout: no answer in time.
            ModelUnavailable: closed, or used in a fork.
        """
        self._check_usable()
        raw = self._encode(body)
        try:
            async with asyncio.timeout(timeout):
                answer = await asyncio.get_running_loop().run_in_executor(self._pool, _complete, self._server, raw)
        except TimeoutError:
            raise ModelTimeout(f"the embedded engine gave no answer in {timeout:g} s") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._shut_down.alive or (task is not None and task.cancelling()):
                raise
            raise ModelUnavailable("the embedded engine was closed before it answered", retryable=False) from None
        answer["model"] = self.name  # llama.cpp puts the file's path here
        _drop_partial_logprobs(answer)
        return answer

    def load(self, path: Path | None) -> None:
        """Answer from another file from now on; None: from the first one. What is being decoded ends as it began.

        Raises:
            InputError: the file is missing or no model; the engine goes on as it was.
        """
        self._server = _start_server(path or self._first, *self._sizes)

    async def log_probs(self, token_ids: list[int], timeout: float) -> list[float]:
        """The log-prob of each token of a sequence but the first, given those before it.

        Raises:
            ModelError: refused, not in time, or a token is not among the likeliest ``MOST_LIKELY``.
        """
        self._check_usable()
        work = asyncio.get_running_loop().run_in_executor(self._pool, _log_probs, self._server, token_ids)
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError:
            raise ModelTimeout(f"the embedded engine gave no log-probs in {timeout:g} s") from None

    def close(self) -> None:
        """End the engine: requests in the queue fail, those being decoded are waited for. May be called twice."""
        self._shut_down()
        if os.getpid() == self._pid:
            self._server = None  # gives the memory back

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ModelUnavailable(
                f"the embedded engine was started by process {self._pid} and cannot be used in a fork of it; "
                "start one engine in each process",
                retryable=False,
            )
        if not self._shut_down.alive:
            raise ModelUnavailable("the embedded engine is closed", retryable=False)

    def _encode(self, body: dict[str, Any]) -> bytes:
        if body.get("stream"):
            raise ModelRejectedRequest("the embedded engine does not stream", status=400)
        if body.get("n") not in (None, 1):  # its usage would be that of one choice
            raise ModelRejectedRequest("the embedded engine gives one choice per request (n = 1)", status=400)
        request = _UNCHANGED_SAMPLING | body
        # A request that nobody waits for any more runs on until max_tokens, so there is always a limit.
        asked = request.pop("max_completion_tokens", None) or request.get("max_tokens")
        if asked is None or (isinstance(asked, int) and not 0 <= asked <= self._slot_tokens):
            asked = self._slot_tokens
        request["max_tokens"] = asked
        if isinstance(request.get("seed"), int):
            request["seed"] %= _RANDOM_SEED
        try:
            return orjson.dumps(request)
        except orjson.JSONEncodeError as error:  # a lone surrogate or an integer of more than 64 bits
            raise ModelRejectedRequest(f"the request cannot be said in JSON: {error}", status=400) from None


def _start_server(path: Path, slots: int, slot_tokens: int, threads: int) -> Any:
    try:
        import xllamacpp
    except ImportError:
        raise InputError("the embedded engine needs xllamacpp: pip install 'kubegym[embedded]'") from None
    if not path.is_file():
        raise InputError(f"no model file at {path}")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = slots, slots * slot_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib, params.verbosity = 0, -1  # default: up to 8 GiB of prompts; a log line per request
    params.endpoint_slots, params.ui, params.n_threads_http = False, False, 1
    # A server always listens. Here it does so on a socket that only this user could reach and that is gone at once.
    # A socket's path may have 103 bytes (macOS) at most, and the folder for temporary files may be a deep one.
    temporary = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="kubegym-", dir=temporary if len(os.fsencode(temporary)) < 70 else "/tmp")
    try:
        params.hostnames = [os.path.join(folder, "llama.sock")]
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be loaded: {error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # A server that is freed before its loop has begun waits for that loop for ever. An answer shows that it has.
    server.handle_completions(_FIRST_REQUEST, lambda chunk: None)
    return server


def _complete(server: Any, raw: bytes) -> dict[str, Any]:
    """Run one request to its end; in a pool thread."""
    chunks: list[bytes] = []
    try:
        server.handle_chat_completions(raw, chunks.append)
    except (RuntimeError, ValueError) as error:  # refused before it reached a slot: messages, tools, schemas
        raise _refusal({"message": str(error), "code": 400}) from None
    if len(chunks) != 1:
        raise ModelReplyInvalid(f"the embedded engine gave {len(chunks)} answers to one request", retryable=True)
    answer: dict[str, Any] = orjson.loads(chunks[0])
    if "error" in answer:
        raise _refusal(answer["error"])
    return answer


def _log_probs(server: Any, token_ids: list[int]) -> list[float]:
    """Those of a sequence, one question a token; in a pool thread."""
    found = []
    for place in range(1, len(token_ids)):
        body = {"prompt": token_ids[:place], "n_predict": 1, "n_probs": MOST_LIKELY, "temperature": 0.0}
        chunks: list[bytes] = []
        try:
            server.handle_completions(orjson.dumps(body | _UNCHANGED_SAMPLING), chunks.append)
        except (RuntimeError, ValueError) as error:
            raise ModelRejectedRequest(str(error), status=400) from None
        answer = orjson.loads(chunks[-1])
        if "error" in answer:
            raise _refusal(answer["error"])
        told = {o["id"]: o["logprob"] for c in answer["choices"][0]["logprobs"]["content"] for o in c["top_logprobs"]}
        if token_ids[place] not in told:
            raise ModelReplyInvalid(f"token {token_ids[place]} is not among the {MOST_LIKELY} likeliest ones")
        found.append(float(told[token_ids[place]]))
    return found


def _drop_partial_logprobs(answer: dict[str, Any]) -> None:
    """Remove a list of tokens that is not whole, since a trainer would take it for the answer.

    llama.cpp leaves out tokens that end in the middle of a UTF-8 character.
    """
    [choice] = answer["choices"]
    logprobs = choice.get("logprobs")
    if logprobs is not None and len(logprobs["content"]) != answer["usage"]["completion_tokens"]:
        del choice["logprobs"]


def _refusal(error: dict[str, Any]) -> ModelError:
    message, status = str(error.get("message")), int(error.get("code", 500))
    if error.get("type") == "exceed_context_size_error":
        return ContextWindowExceeded(message, status=status)
    if _UNREADABLE in message:  # tool calls that the model began and did not end as its template does
        return ModelReplyInvalid(message, retryable=True)
    if status < 500:
        return ModelRejectedRequest(message, status=status)
    return ModelUnavailable(message, status=status)


def _shut_down(pool: ThreadPoolExecutor, pid: int) -> None:
    if os.getpid() == pid:  # a forked child owns none of the threads
        pool.shutdown(wait=True, cancel_futures=True)
