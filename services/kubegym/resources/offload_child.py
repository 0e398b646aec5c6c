"""The process at the other end of ``@offload``: ``python -m kubegym.resources.offload_child FD``."""

from __future__ import annotations

import importlib
import os
import pickle
import resource
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from kubegym.resources.limits import RemoteError
from kubegym.resources.loader import register_folder


def main() -> None:
    """Answer calls until the parent closes the connection or is gone."""
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    while True:
        try:
            job = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_answer(connection, job))


def _answer(connection: Connection, job: bytes) -> bytes:
    folders, call, cpu_seconds = pickle.loads(job)
    try:
        for package, folder in folders.items():
            register_folder(package, folder)
        module, qualname, args, kwargs = pickle.loads(call)
        function: Any = importlib.import_module(module)
        for part in qualname.split("."):
            function = getattr(function, part)
        connection.send_bytes(pickle.dumps(None))  # ready: from here on the time is the call's
        _limit_cpu(cpu_seconds)
        function = getattr(function, "__wrapped__", function)  # the name means what @offload put there
        answer = ("returned", function(*args, **kwargs))
        return pickle.dumps(answer)
    except Exception as error:
        return _pickled(error)


def _pickled(error: Exception) -> bytes:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    error.kubegym_frame = f"{frame.filename}:{frame.lineno} in {frame.name}"  # type: ignore[attr-defined]
    try:
        data = pickle.dumps(("raised", error))
        pickle.loads(data)  # an exception may pickle and still not come back
    except Exception:
        text = RemoteError(f"{type(error).__name__}: {error}")
        text.kubegym_frame = error.kubegym_frame  # type: ignore[attr-defined]
        return pickle.dumps(("raised", text))
    return data


def _limit_cpu(seconds: float) -> None:
    """Have the kernel end this process should the parent not be there to do it; whole seconds, a little later."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 2, hard))


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
