"""How a store is reached: what its URL does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubegym.core.errors import InvalidSpec
from kubegym.core.retry import Backoff


@dataclass(frozen=True, slots=True)
class MountedCredentials:
    """Credentials in a folder, a file a key: a mounted Secret, whose files are replaced while we run.

    A store reads them again every ``CHECK_SECONDS`` of use, so that a rotated key needs no restart.
    """

    CHECK_SECONDS = 10.0

    folder: Path

    def read(self) -> dict[str, str]:
        """What the files hold now, by file name. Raises InvalidSpec where the folder cannot be read."""
        try:
            files = [path for path in sorted(self.folder.iterdir()) if not path.name.startswith(".") and path.is_file()]
            return {path.name: path.read_text(encoding="utf-8").strip() for path in files}
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"the credentials in {self.folder} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Endpoint, trust, credentials and patience for a remote store; a folder needs none of them.

    Attributes:
        endpoint: base URL of an S3-compatible server (or an emulator of the others). ``http://`` is allowed because it
            is written out; without an endpoint only TLS is spoken. Default: the environment's, else the cloud's own.
        region: default: the environment's, else ``us-east-1``.
        credentials: keys as in a ``credentialsSecretRef`` (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
            GOOGLE_APPLICATION_CREDENTIALS_JSON, AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_ACCOUNT_NAME); others are
            ignored. None: what the environment offers (the same names, web identity, instance metadata). Given, they
            are used alone: nothing of the environment's mixes in. Never shown.
        ca_bundle: PEM file with certificates to trust besides the system's; read again with mounted credentials.
        request_seconds: limit for one HTTP request, its body included.
        retry: bounds for trouble that is plainly transient (5xx, throttling, refused connections, 409 conflicts).
    """

    endpoint: str | None = None
    region: str | None = None
    credentials: Mapping[str, str] | MountedCredentials | None = field(default=None, repr=False, hash=False)
    ca_bundle: Path | None = None
    request_seconds: float = 60.0
    retry: Backoff = field(default=Backoff())
