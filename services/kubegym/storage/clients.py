"""obstore clients from a bucket and ``StoreOptions``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubegym.core.errors import InvalidSpec
from kubegym.storage.options import MountedCredentials, StoreOptions

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

_TRANSFER_SECONDS = 240.0  # no retry begins later: a signature is good for five minutes


class Connection:
    """A client for a prefix of a bucket; another one whenever mounted credentials have changed.

    Raises:
        InvalidSpec: the options do not fit the kind of store, or the credentials cannot be read.
    """

    def __init__(self, scheme: str, bucket: str, prefix: str, options: StoreOptions) -> None:
        self._place = (scheme, bucket, prefix)
        self._options = options
        self._checked = time.monotonic()
        self._known = _mounted(options)
        self._client = connect(*self._place, _resolved(options, self._known))

    @property
    def client(self) -> Client:
        """The client to use now."""
        mounted = self._options.credentials
        if isinstance(mounted, MountedCredentials) and time.monotonic() - self._checked >= mounted.CHECK_SECONDS:
            self._checked = time.monotonic()
            with contextlib.suppress(InvalidSpec):  # while the files are being replaced, the old ones are good enough
                found = _mounted(self._options)
                if found != self._known:
                    self._client = connect(*self._place, _resolved(self._options, found))
                    self._known = found
        return self._client


_Found = tuple[Mapping[str, str], bytes]
"""Mounted credentials, and the CA bundle beside them."""


def _mounted(options: StoreOptions) -> _Found | None:
    if not isinstance(options.credentials, MountedCredentials):
        return None
    return options.credentials.read(), _bundle(options)


def _resolved(options: StoreOptions, found: _Found | None) -> StoreOptions:
    return options if found is None else replace(options, credentials=found[0])


def _bundle(options: StoreOptions) -> bytes:
    try:
        return b"" if options.ca_bundle is None else options.ca_bundle.read_bytes()
    except OSError as error:
        raise InvalidSpec(f"the CA bundle cannot be read: {error}") from error


def connect(scheme: str, bucket: str, prefix: str, options: StoreOptions) -> Client:
    """A client for a prefix of a bucket; makes no request. Raises InvalidSpec for options that do not fit."""
    if scheme == "s3":
        options = _with_environment(options)
    common: dict[str, Any] = {
        "prefix": prefix or None,
        "client_options": _client_options(options),
        "retry_config": {
            "max_retries": options.retry.attempts - 1,
            "retry_timeout": timedelta(seconds=_TRANSFER_SECONDS),
            "backoff": {
                "init_backoff": timedelta(seconds=options.retry.base),
                "max_backoff": timedelta(seconds=options.retry.maximum),
                "base": 2,
            },
        },
    }
    build = {"s3": _s3, "gs": _gcs, "az": _azure}[scheme]
    try:
        return build(bucket, options, common)
    except InvalidSpec:
        raise
    except Exception as error:  # obstore raises a family of its own for keys and values it does not like
        raise InvalidSpec(f"{scheme}://{bucket}: {str(error).partition('Debug source')[0].strip()}") from error


def _with_environment(options: StoreOptions) -> StoreOptions:
    """Endpoint and CA bundle from where the AWS tools look for them, unless they are given.

    obstore reads the endpoint, too, but would refuse ``http://`` although somebody wrote it out.
    """
    endpoint = options.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    bundle = os.environ.get("AWS_CA_BUNDLE")
    return replace(
        options, endpoint=endpoint or None, ca_bundle=options.ca_bundle or (Path(bundle) if bundle else None)
    )


def _s3(bucket: str, options: StoreOptions, common: dict[str, Any]) -> Client:
    from obstore.store import S3Store

    settings = dict(common)
    if options.endpoint is not None:
        # Servers behind an endpoint seldom have a wildcard name for their buckets.
        settings |= {"endpoint": options.endpoint.rstrip("/"), "virtual_hosted_style_request": False}
    if options.region is not None:
        settings["region"] = options.region
    if options.credentials is not None:
        # By a provider, not by settings: obstore reads AWS_* from the environment beneath its settings, so that a
        # session token found there would go with a key given here.
        settings["credential_provider"] = _AwsKeys(_keys(options))
    return S3Store(bucket, **settings)


class _AwsKeys:
    """Fixed keys in the form obstore asks a credential provider for."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._answer = {
            "access_key_id": _required(credentials, "AWS_ACCESS_KEY_ID"),
            "secret_access_key": _required(credentials, "AWS_SECRET_ACCESS_KEY"),
            "token": credentials.get("AWS_SESSION_TOKEN") or None,
            "expires_at": None,
        }

    def __call__(self) -> dict[str, str | None]:
        return self._answer


def _gcs(bucket: str, options: StoreOptions, common: dict[str, Any]) -> Client:
    from obstore.store import GCSStore

    settings = dict(common)
    if options.endpoint is not None:
        settings["base_url"] = options.endpoint.rstrip("/")
    if options.credentials is not None:
        settings["service_account_key"] = _required(_keys(options), "GOOGLE_APPLICATION_CREDENTIALS_JSON")
    elif inline := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS_JSON"):
        settings["service_account_key"] = inline
    return GCSStore(bucket, **settings)


def _azure(container: str, options: StoreOptions, common: dict[str, Any]) -> Client:
    from obstore.store import AzureStore

    settings = dict(common)
    if options.endpoint is not None:
        settings["endpoint"] = options.endpoint.rstrip("/")
    if options.credentials is not None:
        keys = _keys(options)
        settings["account_key"] = _required(keys, "AZURE_STORAGE_ACCOUNT_KEY")
        if account := keys.get("AZURE_STORAGE_ACCOUNT_NAME"):
            settings["account_name"] = account
    return AzureStore(container, **settings)


def _client_options(options: StoreOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"timeout": timedelta(seconds=options.request_seconds)}
    if options.endpoint is not None and options.endpoint.startswith("http://"):
        settings["allow_http"] = True
    if bundle := _bundle(options):
        settings["root_certificate"] = bundle
    return settings


def _keys(options: StoreOptions) -> Mapping[str, str]:
    """The credentials that are given, as they are now."""
    given = options.credentials
    return given.read() if isinstance(given, MountedCredentials) else given or {}


def _required(credentials: Mapping[str, str], name: str) -> str:
    value = credentials.get(name)
    if not value:
        present = ", ".join(sorted(credentials)) or "none"
        raise InvalidSpec(f"the store's credentials lack {name} (they have: {present})")
    return value
