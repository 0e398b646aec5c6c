"""What an exception of obstore means.

obstore has exception classes for a few answers; the rest are GenericError with the server's answer in the text. Status
and S3 error code are read from there, and a text that does not have them leaves the class's meaning.
"""

from __future__ import annotations

import re

from kubegym.core.errors import StoreError
from kubegym.storage.errors import Conflict, ObjectNotFound, StoreDenied, StoreFull

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_DETAIL = re.compile(r"<Message>([^<]*)</Message>")

_DENIED = frozenset(
    {
        "AccessDenied",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"})
_TRANSIENT_4XX = frozenset({408, 409, 425, 429})
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an exception of obstore reports."""
    found = _STATUS.search(str(error))
    return int(found.group(1)) if found else None


def remote_error(error: Exception, url: str, key: str) -> StoreError:
    """The storage error for an exception of obstore; errors of ours are returned as they are.

    An exception that is neither obstore's nor ours is a defect and is raised.
    """
    from obstore import exceptions

    if isinstance(error, StoreError):
        return error
    if not isinstance(error, exceptions.BaseError | FileNotFoundError):
        raise error
    text = str(error)
    code = _first(_CODE, text)
    message = f"{url}/{key}: {_brief(text)}"
    if code == "NoSuchBucket":
        return StoreError(f"the bucket of {url} does not exist", reason="BucketNotFound", retryable=False)
    if any(service in text for service in _METADATA_SERVICES):
        return StoreDenied(
            f"{url}: no credentials in the settings or the environment, and the machine's metadata service gave none"
        )
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError) or code in _DENIED:
        return StoreDenied(message)
    if isinstance(error, FileNotFoundError):
        return ObjectNotFound(f"{url}/{key} does not exist")
    status = _first(_STATUS, text)
    if isinstance(error, exceptions.PreconditionError) or status == "412":
        return Conflict(message)
    return _by_status(status, code, message, unsupported=isinstance(error, exceptions.NotSupportedError))


def _by_status(status: str | None, code: str | None, message: str, *, unsupported: bool) -> StoreError:
    if unsupported or status == "501" or code == "NotImplemented":
        return StoreError(message, reason="NotSupported", retryable=False)
    if status == "507" or code in _FULL:
        return StoreFull(message)
    if code == "ObjectParentIsFile":  # versitygw, MinIO: keys that a file system cannot hold together
        return StoreError(message, retryable=False)
    refused = status is not None and status.startswith("4") and int(status) not in _TRANSIENT_4XX
    return StoreError(message, retryable=not refused)


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group(1) if found else None


def _brief(text: str) -> str:
    """One line: the server's own words where it spoke, else obstore's, without its debug dump."""
    code, detail = _first(_CODE, text), _first(_DETAIL, text)
    if code:
        return f"{code}: {detail}" if detail else code
    return " ".join(text.partition("Debug source")[0].split())
