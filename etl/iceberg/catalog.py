"""The Iceberg catalog: how it is opened, and what its errors mean to a person."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pyiceberg.exceptions as iceberg
from pydantic import Field, SecretStr, model_validator

from etl.drafts import disk_errors
from etl.errors import AccessError, ConfigError, EtlError, RetryLater
from etl.options import Options

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

_ASK = "these credentials may not do that; ask for the permission"
_LATER = "run again later"
_OF_ANOTHER_KIND = "there is a table of this name that is no Iceberg table; choose another name"
_LOST_RACE = "lost race: somebody else has changed the table meanwhile; run again"

_ERRORS: tuple[tuple[type[Exception], type[EtlError], str], ...] = (
    (iceberg.NotInstalledError, ConfigError, 'a library is missing; pip install "pyiceberg[sql-sqlite,glue]"'),
    (iceberg.NoSuchIcebergTableError, ConfigError, _OF_ANOTHER_KIND),
    (iceberg.NoSuchPropertyException, ConfigError, _OF_ANOTHER_KIND),
    (iceberg.CommitStateUnknownException, RetryLater, f"nobody knows whether the commit was made; {_LATER}"),
    (iceberg.CommitFailedException, RetryLater, _LOST_RACE),
    (iceberg.ValidationException, RetryLater, _LOST_RACE),
    (iceberg.TableAlreadyExistsError, RetryLater, _LOST_RACE),
    (iceberg.UnauthorizedError, AccessError, "the catalog does not accept these credentials"),
    (iceberg.AuthorizationExpiredError, AccessError, "the session has expired; renew the credentials and run again"),
    (iceberg.OAuthError, AccessError, "the catalog gives no token for these credentials"),
    (iceberg.ForbiddenError, AccessError, _ASK),
    (iceberg.TooManyRequestsError, RetryLater, f"the catalog is throttling; {_LATER}"),
    (iceberg.ServiceUnavailableError, RetryLater, f"the catalog is unavailable; {_LATER}"),
    (iceberg.ServerError, RetryLater, f"the catalog had an internal error; {_LATER}"),
    (iceberg.BadRequestError, ConfigError, "the catalog does not understand; check [load.catalog]"),
)
# What boto3 (Glue) calls a code, or an error of its own, and Arrow (S3) writes into its messages in capitals.
_CODES: tuple[tuple[str, type[EtlError], str], ...] = (
    (r"access_?denied", AccessError, _ASK),
    (r"expired_?token", AccessError, "the session has expired; renew the credentials and run again"),
    (r"invalid_?access_?key|signature_?does|unrecognized_?client|invalid_?token", AccessError, "unknown credentials"),
    (r"no_?such_?bucket", ConfigError, "the bucket of the warehouse does not exist; check its name, or create it"),
    (r"throttl|slow_?down", RetryLater, f"AWS is throttling; {_LATER}"),
    (
        r"network_?connection|connection(closed)?error|timeouterror|internal_?(error|service|failure)|unavailable",
        RetryLater,
        f"AWS is unavailable; {_LATER}",
    ),
)
_MODULES: tuple[tuple[str, type[EtlError], str], ...] = (
    ("sqlalchemy", RetryLater, "the catalog's database cannot be used; check load.catalog.uri, or run again later"),
    ("requests", RetryLater, "the catalog cannot be reached; check load.catalog.uri, or run again later"),
    ("botocore", AccessError, "AWS cannot be used; check credentials, region, network and AWS_ENDPOINT_URL"),
)


class IcebergCatalog(Options):
    """Which catalog knows the tables. Credentials of AWS come from where boto3 and AWS' other tools find them."""

    type: Literal["glue", "rest", "sql"] = Field(description="AWS Glue, an Iceberg REST server or a SQL database.")
    uri: SecretStr | None = Field(
        default=None, description='Of the server or database, such as "postgresql+psycopg2://...".'
    )
    warehouse: str | None = Field(
        default=None, description='Where new tables go, such as "s3://bucket/warehouse"; for REST, a name.'
    )
    properties: dict[str, SecretStr] = Field(
        default={}, description='More of pyiceberg\'s own options, such as "token" or "s3.endpoint".'
    )

    @model_validator(mode="after")
    def _can_be_opened(self) -> IcebergCatalog:
        if self.type != "glue" and self.uri is None:
            raise ValueError(f"a catalog of type {self.type!r} needs a uri")
        if self.type != "rest" and "://" not in (self.warehouse or ""):
            raise ValueError('warehouse must be the URI of a folder, such as "s3://bucket/warehouse" or "file:///data"')
        return self

    def open(self) -> Catalog:
        from pyiceberg.catalog import load_catalog

        given = {name: value.get_secret_value() for name, value in self.properties.items()}
        options = {
            "type": self.type,
            "uri": self.uri.get_secret_value() if self.uri else None,
            "warehouse": self.warehouse,
            "s3.endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            "s3.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            **given,
        }
        return load_catalog("etl", **{name: value for name, value in options.items() if value})


@contextmanager
def iceberg_errors(target: str) -> Iterator[None]:
    """Translate what pyiceberg and the libraries under it raise. ``target``: the table."""
    try:
        with disk_errors(target):
            yield
    except EtlError:
        raise
    except Exception as error:
        for foreign, kind, remedy in _ERRORS:
            if isinstance(error, foreign):
                raise kind(f"{target}: {remedy} ({_first_line(error)})") from error
        code = _aws_code(error)
        for pattern, kind, remedy in _CODES:
            if re.search(pattern, code, re.IGNORECASE):
                raise kind(f"{target}: {remedy} ({_first_line(error)})") from error
        library = type(error).__module__.partition(".")[0]
        for name, kind, remedy in _MODULES:
            if library == name:
                raise kind(f"{target}: {remedy} ({_first_line(error)})") from error
        raise


def _aws_code(error: Exception) -> str:
    """What AWS or botocore calls the error, or nothing if it is not one of theirs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    if type(error).__module__ == "botocore.exceptions":
        return type(error).__name__
    return str(error) if isinstance(error, OSError) and "AWS Error" in str(error) else ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
