"""A bucket's settings, one class each: how it is read, compared with what is wished for, and brought there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from etl.bucket.place import Place
from etl.bucket.posture import BucketPosture
from etl.errors import EtlError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Document = dict[str, Any]

_STRENGTH = {"AES256": 1, "aws:kms": 2, "aws:kms:dsse": 3}
_PUBLIC_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


class NotSupported(EtlError):
    """A store that is not Amazon's does not know this call."""


@dataclass(frozen=True)
class Line:
    """One wish, by its name in the ``[bucket]`` table, beside what is there. ``ok``: None if it does not apply."""

    wish: str
    wanted: str
    actual: str
    ok: bool | None


class Setting(ABC):
    """One document that S3 keeps about a bucket; it may hold the answers to several wishes.

    ``read`` and ``write`` talk to S3; ``compare`` and ``merged`` are plain functions of the document, which is empty if
    it was never set. ``merged`` is the document that fulfils the wishes and loosens nothing that is there.
    ``look`` and ``change``: the permissions that it takes. ``absent``: the error that means that it was never set.
    """

    look: ClassVar[str]
    change: ClassVar[tuple[str, ...]]
    absent: ClassVar[str] = ""

    def __init__(self, place: Place, posture: BucketPosture) -> None:
        self.place = place
        self.posture = posture

    @abstractmethod
    def read(self, client: S3Client) -> Document: ...

    @abstractmethod
    def compare(self, document: Document) -> list[Line]: ...

    @abstractmethod
    def merged(self, document: Document) -> Document: ...

    @abstractmethod
    def write(self, client: S3Client, document: Document) -> None: ...


class Versioning(Setting):
    look = "s3:GetBucketVersioning"
    change = ("s3:PutBucketVersioning",)

    def read(self, client: S3Client) -> Document:
        reply = client.get_bucket_versioning(**self.place.request)
        return {"Status": reply["Status"]} if "Status" in reply else {}

    def compare(self, document: Document) -> list[Line]:
        if not self.posture.versioning:
            return []
        status = document.get("Status", "off")
        return [Line("versioning", "Enabled", status, status == "Enabled")]

    def merged(self, document: Document) -> Document:
        return {**document, "Status": "Enabled"}

    def write(self, client: S3Client, document: Document) -> None:
        client.put_bucket_versioning(**self.place.request, VersioningConfiguration={"Status": document["Status"]})


class DefaultEncryption(Setting):
    """The document is the bucket's one rule, with whatever else that holds (blocked encryption types)."""

    look = "s3:GetEncryptionConfiguration"
    change = ("s3:PutEncryptionConfiguration",)
    absent = "ServerSideEncryptionConfigurationNotFoundError"

    def read(self, client: S3Client) -> Document:
        reply = client.get_bucket_encryption(**self.place.request)
        rules = reply.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        return dict(rules[0]) if rules else {}

    def compare(self, document: Document) -> list[Line]:
        wanted = self.posture.encryption
        if wanted == "any":
            return []
        algorithm, key, bucket_key = _encryption(document)
        ok = (
            _STRENGTH.get(algorithm, 0) >= _STRENGTH[wanted]
            and (self.posture.kms_key_id is None or _same_key(self.posture.kms_key_id, key))
            and (self.posture.bucket_key in (None, bucket_key) or algorithm != "aws:kms")
        )
        wish = _say_encryption(wanted, self.posture.kms_key_id, self.posture.bucket_key)
        return [Line("encryption", wish, _say_encryption(algorithm, key, bucket_key), ok)]

    def merged(self, document: Document) -> Document:
        """The stronger algorithm, and the wished key; without a wish, the key and the rest stay what they are."""
        found, key, bucket_key = _encryption(document)
        algorithm = max(found, self.posture.encryption, key=lambda name: _STRENGTH.get(name, 0))
        default = {"SSEAlgorithm": algorithm}
        if chosen := self.posture.kms_key_id or key:
            default["KMSMasterKeyID"] = chosen
        if algorithm == "aws:kms" and self.posture.bucket_key is not None:
            bucket_key = self.posture.bucket_key
        elif algorithm == "aws:kms" and found != "aws:kms":
            bucket_key = True
        elif algorithm != "aws:kms":
            bucket_key = False
        return {**document, "ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key}

    def write(self, client: S3Client, document: Document) -> None:
        rules: Any = {"Rules": [document]}
        client.put_bucket_encryption(**self.place.request, ServerSideEncryptionConfiguration=rules)


class PublicAccess(Setting):
    look = "s3:GetBucketPublicAccessBlock"
    change = ("s3:PutBucketPublicAccessBlock",)
    absent = "NoSuchPublicAccessBlockConfiguration"

    def read(self, client: S3Client) -> Document:
        reply = client.get_public_access_block(**self.place.request)
        return dict(reply.get("PublicAccessBlockConfiguration", {}))

    def compare(self, document: Document) -> list[Line]:
        if not self.posture.block_public_access:
            return []
        missing = [switch for switch in _PUBLIC_ACCESS if not document.get(switch)]
        actual = f"without {', '.join(missing)}" if 0 < len(missing) < len(_PUBLIC_ACCESS) else "off"
        return [Line("block_public_access", "on", actual if missing else "on", not missing)]

    def merged(self, document: Document) -> Document:
        return {**document, **dict.fromkeys(_PUBLIC_ACCESS, True)}

    def write(self, client: S3Client, document: Document) -> None:
        switches: Any = document
        client.put_public_access_block(**self.place.request, PublicAccessBlockConfiguration=switches)


class Ownership(Setting):
    look = "s3:GetBucketOwnershipControls"
    change = ("s3:PutBucketOwnershipControls",)
    absent = "OwnershipControlsNotFoundError"

    def read(self, client: S3Client) -> Document:
        reply = client.get_bucket_ownership_controls(**self.place.request)
        rules = reply.get("OwnershipControls", {}).get("Rules", [])
        return dict(rules[0]) if rules else {}

    def compare(self, document: Document) -> list[Line]:
        if not self.posture.owner_enforced:
            return []
        if self.place.uses_acls and not self.posture.asked_for("owner_enforced"):
            return [Line("owner_enforced", "BucketOwnerEnforced", "acl in [load] needs ACLs", None)]
        actual = document.get("ObjectOwnership", "not set")
        return [Line("owner_enforced", "BucketOwnerEnforced", actual, actual == "BucketOwnerEnforced")]

    def merged(self, document: Document) -> Document:
        return {**document, "ObjectOwnership": "BucketOwnerEnforced"}

    def write(self, client: S3Client, document: Document) -> None:
        rules: Any = {"Rules": [document]}
        client.put_bucket_ownership_controls(**self.place.request, OwnershipControls=rules)


def _encryption(rule: Document) -> tuple[str, str | None, bool]:
    """Algorithm, KMS key and whether a bucket key is used, of a bucket's encryption rule."""
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    return default.get("SSEAlgorithm", "none"), default.get("KMSMasterKeyID"), bool(rule.get("BucketKeyEnabled"))


def _same_key(wanted: str, actual: str | None) -> bool:
    """Whether they are one key; S3 gives back the ARN or the bare id, as it was set."""
    return actual is not None and actual in (wanted, wanted.rpartition("/")[2])


def _say_encryption(algorithm: str, key: str | None, bucket_key: bool | None) -> str:
    parts = [algorithm]
    if algorithm.startswith("aws:kms"):
        parts += [key] if key else []
        parts += ["bucket key" if bucket_key else "no bucket key"] if bucket_key is not None else []
    return ", ".join(parts)
