"""Where in its bucket a pipeline keeps things, as policies and lifecycle rules name them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from etl.loaders.s3 import S3Loader

_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
_LITERAL = str.maketrans({"*": "${*}", "?": "${?}", "$": "${$}"})


@dataclass(frozen=True)
class Place:
    """A pipeline's part of a bucket. ``scope``: the key of its one object, or the prefix (``sales/``) of its dataset.

    Paths are patterns of a policy: ``*`` stands for anything.
    """

    bucket: str
    scope: str
    region: str
    owner: str | None = None
    secure: bool = True
    uses_acls: bool = False

    @classmethod
    def of(cls, loader: S3Loader, client: S3Client) -> Place:
        """The client knows the region from the loader, the environment or the profile, and whether it speaks TLS."""
        return cls(
            loader.bucket,
            loader.key or loader.prefix or "",
            client.meta.region_name or "us-east-1",
            loader.expected_bucket_owner,
            secure=client.meta.endpoint_url.startswith("https:"),
            uses_acls=loader.acl is not None,
        )

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def is_dataset(self) -> bool:
        return self.scope.endswith("/")

    @property
    def tag(self) -> str:
        """Tells this pipeline's statements and rules from those of others in the same bucket."""
        return hashlib.sha256(self.scope.encode()).hexdigest()[:8]

    @property
    def request(self) -> dict[str, Any]:
        """What every call carries."""
        owner = {"ExpectedBucketOwner": self.owner} if self.owner else {}
        return {"Bucket": self.bucket, **owner}

    @property
    def pattern(self) -> str:
        """The scope, with the characters that mean something in a policy made literal."""
        return self.scope.translate(_LITERAL)

    @property
    def files(self) -> list[str]:
        """The data itself: written once."""
        return [f"{self.pattern}data/*", f"{self.pattern}_manifests/*"] if self.is_dataset else []

    @property
    def entry(self) -> str:
        """What readers open first and a run replaces: the pointer, or the one object."""
        return f"{self.pattern}_current.json" if self.is_dataset else self.pattern

    @property
    def reports(self) -> list[str]:
        """What a run keeps beside the data."""
        folder = self.pattern[: self.pattern.rfind("/") + 1]
        return [f"{folder}_runs/*", f"{folder}_rejects/*"]

    def arn(self, path: str = "") -> str:
        partition = next((name for start, name in _PARTITIONS.items() if self.region.startswith(start)), "aws")
        return f"arn:{partition}:s3:::{self.bucket}{'/' if path else ''}{path}"
