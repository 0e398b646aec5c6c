"""obstore clients from a bucket and ``StoreOptions``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubegym.core.errors import InvalidSpec
from kubegym.storage.options import StoreOptions

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

_TRANSFER_SECONDS = 240.0  # no retry begins later: a signature is good for five minutes


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
        settings["credential_provider"] = _AwsKeys(options.credentials)
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
        settings["service_account_key"] = _required(options.credentials, "GOOGLE_APPLICATION_CREDENTIALS_JSON")
    elif inline := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS_JSON"):
        settings["service_account_key"] = inline
    return GCSStore(bucket, **settings)


def _azure(container: str, options: StoreOptions, common: dict[str, Any]) -> Client:
    from obstore.store import AzureStore

    settings = dict(common)
    if options.endpoint is not None:
        settings["endpoint"] = options.endpoint.rstrip("/")
    if options.credentials is not None:
        settings["account_key"] = _required(options.credentials, "AZURE_STORAGE_ACCOUNT_KEY")
        if account := options.credentials.get("AZURE_STORAGE_ACCOUNT_NAME"):
            settings["account_name"] = account
    return AzureStore(container, **settings)


def _client_options(options: StoreOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"timeout": timedelta(seconds=options.request_seconds)}
    if options.endpoint is not None and options.endpoint.startswith("http://"):
        settings["allow_http"] = True
    if options.ca_bundle is not None:
        try:
            settings["root_certificate"] = options.ca_bundle.read_bytes()
        except OSError as error:
            raise InvalidSpec(f"the CA bundle cannot be read: {error}") from error
    return settings


def _required(credentials: Mapping[str, str], name: str) -> str:
    value = credentials.get(name)
    if not value:
        present = ", ".join(sorted(credentials)) or "none"
        raise InvalidSpec(f"the store's credentials lack {name} (they have: {present})")
    return value
