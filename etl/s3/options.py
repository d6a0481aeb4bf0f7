"""The options of ``S3Loader``: where it publishes, how, and what S3 is asked to do with it."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import Field, field_validator, model_validator

from etl.formats.options import Format, FormatOptions, format_of

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

KEY_ARN = r"^arn:aws[\w-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+$"
_MOST_TAGS = 10
_MOST_METADATA_BYTES = 1500  # of S3's 2 KB; ours take the rest
_ONLY_WITH_KEY = ("part_bytes",)
_ONLY_WITH_PREFIX = (
    "mode",
    "partition_by",
    "max_file_bytes",
    "max_file_rows",
    "spool_bytes",
    "single_writer",
    "keep_versions",
)

Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]
Acl = Literal["private", "bucket-owner-read", "bucket-owner-full-control", "authenticated-read", "public-read"]
StorageClass = Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"]


class S3Options(FormatOptions):
    """Declared and checked; nothing here talks to S3. What changes no result is excluded from the recipe."""

    bucket: str = Field(
        description="Name of the bucket, without s3://. It must exist.", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
    )
    key: str | None = Field(
        default=None,
        description='Key of the one object, such as "lego/lego_sets.parquet".',
        min_length=1,
        max_length=900,
    )
    prefix: str | None = Field(
        default=None,
        description='Instead of key: where a dataset of many objects lives, such as "sales/".',
        min_length=1,
        max_length=500,
    )
    format: Format | None = Field(
        default=None, description="File format; by default that of the key's ending, and parquet for a dataset."
    )
    region: str | None = Field(
        default=None, exclude=True, description="Region of the bucket; by default AWS_DEFAULT_REGION or the profile's."
    )
    deadline_s: float = Field(
        default=120.0,
        exclude=True,
        ge=0,
        description="A request to S3 that still fails after so many seconds ends the run.",
    )
    parts_in_flight: int = Field(
        default=4,
        exclude=True,
        ge=1,
        le=16,
        description="Parts, or files of a dataset, that are uploaded at the same time.",
    )
    part_bytes: int = Field(
        default=8 * MIB, exclude=True, ge=5 * MIB, description="Size of a part, in bytes. S3 takes 10,000 parts."
    )

    expected_bucket_owner: str | None = Field(
        default=None,
        exclude=True,
        description="Account id that the bucket must belong to; every call asks S3 to check.",
        pattern=r"^\d{12}$",
        coerce_numbers_to_str=True,  # as --set and TOML without quotes give it
    )
    encryption: Encryption | None = Field(
        default=None, description="How S3 encrypts what is written; by default as the bucket says."
    )
    kms_key_id: str | None = Field(default=None, description="ARN of the KMS key; by default the account's own for S3.")
    bucket_key: bool | None = Field(
        default=None, description="Fewer, cheaper calls to KMS, with aws:kms; by default as the bucket says."
    )
    acl: Acl | None = Field(default=None, description="Canned ACL, for the rare bucket that still allows ACLs.")
    storage_class: StorageClass | None = Field(default=None, description="Of the data; by default STANDARD.")
    tags: dict[str, str] = Field(default={}, description="Tags of every object that is written, at most 10.")
    metadata: dict[str, str] = Field(
        default={}, description="User metadata of the data objects, beside our own etl-..."
    )

    mode: Literal["replace", "append"] = Field(
        default="replace", description="Whether a run replaces the dataset's content or adds to it."
    )
    partition_by: tuple[str, ...] = Field(
        default=(), description='Columns that become folders such as "year=2026/", a file or more for each value.'
    )
    max_file_bytes: int = Field(
        default=128 * MIB, ge=64 * KIB, le=4 * GIB, description="A file of about this size is closed, the next begun."
    )
    max_file_rows: int | None = Field(default=None, ge=1, description="Most rows in a file.")
    spool_bytes: int = Field(
        default=4 * GIB, ge=1 * MIB, description="Disk for rows that wait to be sorted into partitions."
    )
    single_writer: bool = Field(
        default=False,
        exclude=True,
        description="Publish to a store without conditional writes; you promise that two runs never meet there.",
    )
    keep_versions: int = Field(
        default=30, exclude=True, ge=1, le=1000, description="Published versions that rollback reaches and sweep keeps."
    )

    # -- checks --------------------------------------------------------------------------------------------------

    @field_validator("key")
    @classmethod
    def _key_is_relative(cls, key: str | None) -> str | None:
        if key is not None and (key.startswith("/") or key.endswith("/")):
            raise ValueError("should name an object, without a slash at either end")
        return key

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_folder(cls, prefix: str | None) -> str | None:
        if prefix is None:
            return None
        if prefix.startswith("/") or "//" in prefix:
            raise ValueError('should be a folder of the bucket, such as "sales/", without a slash before it')
        return f"{prefix.removesuffix('/')}/"

    @field_validator("kms_key_id")
    @classmethod
    def _kms_key_is_an_arn(cls, kms_key_id: str | None) -> str | None:
        if kms_key_id is None or re.match(KEY_ARN, kms_key_id):
            return kms_key_id
        if "alias/" in kms_key_id:
            raise ValueError(
                "an alias can come to mean another key, and in another account means another key already; "
                "give the key's own ARN: aws kms describe-key --key-id ALIAS --query KeyMetadata.Arn"
            )
        raise ValueError('should be the ARN of a key, such as "arn:aws:kms:eu-west-1:111122223333:key/0d9f..."')

    @field_validator("tags")
    @classmethod
    def _tags_are_few_and_short(cls, tags: dict[str, str]) -> dict[str, str]:
        if len(tags) > _MOST_TAGS:
            raise ValueError(f"S3 takes at most {_MOST_TAGS} tags")
        for name, value in tags.items():
            if not all(character.isalnum() or character in " +-=._:/@" for character in name + value):
                raise ValueError(f"{name!r}: tags hold letters, digits, blanks and + - = . _ : / @")
            if not 1 <= len(name) <= 128 or len(value) > 256 or name.startswith("aws:"):
                raise ValueError(
                    f"{name!r}: names have 1 to 128 characters and do not begin with aws:, values at most 256"
                )
        return tags

    @field_validator("metadata")
    @classmethod
    def _metadata_travels_in_headers(cls, metadata: dict[str, str]) -> dict[str, str]:
        for name, value in metadata.items():
            if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum() and name == name.lower()):
                raise ValueError(f"{name!r}: names are lower-case letters, digits, - and _")
            if name.startswith("etl-"):
                raise ValueError(f"{name!r}: names that begin with etl- are this program's own")
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"{name!r}: values are printable ASCII; tags take other characters")
        if sum(len(name) + len(value) for name, value in metadata.items()) > _MOST_METADATA_BYTES:
            raise ValueError(f"is more than {_MOST_METADATA_BYTES:,} bytes")
        return metadata

    @model_validator(mode="after")
    def _options_fit_together(self) -> S3Options:
        if (self.key is None) == (self.prefix is None):
            raise ValueError("give either key (one object) or prefix (a dataset of many)")
        unfit = self.model_fields_set & set(_ONLY_WITH_PREFIX if self.prefix is None else _ONLY_WITH_KEY)
        if unfit:
            raise ValueError(f"{', '.join(sorted(unfit))}: only with {'prefix' if self.prefix is None else 'key'}")
        if self.key is not None and self.format is None and format_of(self.key) is None:
            raise ValueError(
                f"cannot tell the format of {self.key!r}; end the key in .parquet, .csv or .jsonl, or set format"
            )
        if self.kms_key_id and self.encryption not in ("aws:kms", "aws:kms:dsse"):
            raise ValueError('kms_key_id: only with encryption = "aws:kms" or "aws:kms:dsse"')
        if self.bucket_key is not None and self.encryption != "aws:kms":
            raise ValueError('bucket_key: only with encryption = "aws:kms"')
        if len(set(self.partition_by)) < len(self.partition_by):
            raise ValueError("partition_by: names a column twice")
        return self

    # -- what follows from them --------------------------------------------------------------------------------------

    @property
    def file_format(self) -> Format:
        return self.format or format_of(self.key or "") or "parquet"

    @property
    def encrypted_as(self) -> str | None:
        """As ``Stored.encryption`` tells it; None if the bucket decides."""
        return " ".join(filter(None, (self.encryption, self.kms_key_id))) or None

    def writing(self) -> dict[str, Any]:
        """What every write asks for, of data as of small files."""
        options = {
            "ServerSideEncryption": self.encryption,
            "SSEKMSKeyId": self.kms_key_id,
            "BucketKeyEnabled": self.bucket_key,
            "ACL": self.acl,
            "Tagging": urlencode(self.tags) or None,
        }
        return {name: value for name, value in options.items() if value is not None}
