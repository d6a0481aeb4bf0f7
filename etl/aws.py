"""Clients of AWS services: how they are made, and what goes wrong with signing in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3.session
import botocore.exceptions as aws
import botocore.loaders
import botocore.session
from botocore.config import Config

from etl.errors import AccessError, ConfigError, EtlError

Meaning = tuple[type[Exception], type[EtlError], str]  # of an exception: our error, and what to do

_LOG_IN = "the AWS login is missing or has expired; run `aws sso login`"

_SIGN_IN_ERRORS: tuple[Meaning, ...] = (
    (aws.NoCredentialsError, AccessError, "no AWS credentials found; set AWS_PROFILE or the AWS_* keys in .env"),
    (aws.PartialCredentialsError, AccessError, "the AWS credentials are incomplete"),
    (aws.CredentialRetrievalError, AccessError, "the AWS credentials could not be fetched; log in again"),
    (aws.TokenRetrievalError, AccessError, _LOG_IN),
    (aws.SSOError, AccessError, _LOG_IN),
    (aws.MissingDependencyException, ConfigError, "a library is missing"),
    (aws.ProfileNotFound, ConfigError, "there is no such AWS profile; check AWS_PROFILE"),
    (aws.ConfigParseError, ConfigError, "the AWS config file cannot be read"),
    (aws.InvalidConfigError, ConfigError, "the AWS config file is wrong"),
    (aws.NoRegionError, ConfigError, "no region; set AWS_DEFAULT_REGION in .env"),
)


def aws_client(service: str, region: str | None, config: Config) -> Any:
    """A client that finds credentials, region and endpoint as boto3 and the AWS tools do.

    Raises botocore's errors, and ConfigError if endpoint or region cannot be.
    """
    core = botocore.session.Session()
    core.register_component("data_loader", _data_loader())
    session: Any = boto3.session.Session(botocore_session=core)
    try:
        return session.client(service, region_name=region, config=config)
    except ValueError as error:
        raise ConfigError(f"cannot talk to {service}: {error}; check AWS_ENDPOINT_URL and the region") from error


@contextmanager
def aws_errors(
    action: str,
    target: str,
    explained: Callable[[Mapping[str, Any]], tuple[type[EtlError], str]],
    exceptions: Sequence[Meaning],
) -> Iterator[None]:
    """Translate botocore's errors. ``action``: the permission it takes; ``target``: what errors call the place.

    ``explained``: what a reply that is an error means; ``exceptions``: what others do, apart from those of signing in.
    """
    known = (*_SIGN_IN_ERRORS, *exceptions)
    try:
        yield
    except aws.ClientError as error:
        kind, news = explained(error.response)
        raise kind(f"{action} on {target}: {news}") from error
    except tuple(foreign for foreign, _, _ in known) as error:
        ours, remedy = next((ours, remedy) for foreign, ours, remedy in known if isinstance(error, foreign))
        raise ours(f"{action} on {target}: {remedy} ({error})") from error
    except aws.BotoCoreError as error:
        raise EtlError(f"{action} on {target}: {error}") from error


@cache
def _data_loader() -> Any:
    """What botocore knows about the services. Reading that takes most of the time in which a client is made."""
    return botocore.loaders.create_loader()
