"""A real S3 server with conditional writes (versitygw on a folder)."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.build import binary

ACCESS_KEY = "test"
SECRET_KEY = "testtest"
_START_SECONDS = 300.0
_STARTS = 5  # the port chosen may be taken by another process before the server has it


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: base URL.
        folder: where its buckets lie; a bucket is a folder.
        ca_bundle: certificate to trust, if it speaks TLS.
        credentials: its only user, keyed as in a ``credentialsSecretRef``.
    """

    endpoint: str
    folder: Path
    ca_bundle: Path | None = None
    credentials: Mapping[str, str] = field(
        default_factory=lambda: {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    )

    def make_bucket(self, name: str) -> None:
        (self.folder / name).mkdir()

    def unfinished_uploads(self, bucket: str) -> list[Path]:
        """Parts of multipart uploads that were neither completed nor aborted."""
        return [path for path in (self.folder / bucket / ".sgwtmp" / "multipart").rglob("*") if path.is_file()]


@contextmanager
def s3_server(buckets: Sequence[str] = (), *, tls: bool = False) -> Iterator[S3Server]:
    """Start a server with empty buckets; on leaving it is ended and its folder removed.

    Raises:
        testbed.build.CannotBuild: there is no binary and none can be built.
    """
    program = binary("versitygw")
    with tempfile.TemporaryDirectory(prefix="kubegym-s3-") as above:
        folder = Path(above, "data")
        folder.mkdir()
        certificate = _certificate(Path(above)) if tls else None
        for bucket in buckets:
            (folder / bucket).mkdir()
        process, port = _start(program, Path(above), folder, certificate)
        try:
            scheme = "https" if tls else "http"
            yield S3Server(f"{scheme}://127.0.0.1:{port}", folder, Path(above, "authority.pem") if tls else None)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(
    program: Path, above: Path, folder: Path, certificate: tuple[Path, Path] | None
) -> tuple[subprocess.Popen[bytes], int]:
    log = above / "log"
    for _ in range(_STARTS):
        port = _free_port()
        command = [str(program), "--quiet", "--port", f"127.0.0.1:{port}"]
        if certificate:
            command += ["--cert", str(certificate[0]), "--key", str(certificate[1])]
        command += ["posix", *_sidecar(above, folder), str(folder)]
        environment = {
            "PATH": os.defpath,
            "HOME": str(above),
            "ROOT_ACCESS_KEY": ACCESS_KEY,
            "ROOT_SECRET_KEY": SECRET_KEY,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            if _answers(process, port, tls=certificate is not None):
                return process, port
        except BaseException:
            process.kill()
            process.wait()
            raise
    raise RuntimeError(f"versitygw did not start {_STARTS} times; its last words:\n{log.read_text()}")


def _answers(process: subprocess.Popen[bytes], port: int, *, tls: bool) -> bool:
    """Wait for the server's first answer; False if it ended instead."""
    deadline = time.monotonic() + _START_SECONDS
    trust = ssl._create_unverified_context()  # only asks whether it is up
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=trust)
            if tls
            else http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        )
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return True
        except OSError:
            time.sleep(0.05)  # between two looks, not for a time by which it should be ready
        finally:
            connection.close()
    raise RuntimeError(f"versitygw did not answer within {_START_SECONDS:.0f} s")


def _sidecar(above: Path, folder: Path) -> list[str]:
    """versitygw keeps ETags in extended attributes; where the file system has none, in a folder."""
    try:
        os.setxattr(folder, "user.kubegym", b"1")
    except OSError:
        (above / "metadata").mkdir(exist_ok=True)
        return ["--sidecar", str(above / "metadata")]
    os.removexattr(folder, "user.kubegym")
    return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, signed by ``authority.pem``, which nobody trusts."""
    authority, authority_key = folder / "authority.pem", folder / "authority-key.pem"
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    root = [*new, "-subj", "/CN=test authority", "-keyout", str(authority_key), "-out", str(authority)]
    leaf = [*new, "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    leaf += ["-CA", str(authority), "-CAkey", str(authority_key)]
    leaf += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    for command in (root, leaf):
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    return certificate, key
