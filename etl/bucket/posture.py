"""What a bucket should be: the wishes of a pipeline file's ``[bucket]`` table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from etl.options import Options
from etl.s3.options import KEY_ARN, Encryption

if TYPE_CHECKING:
    from etl.loaders.s3 import S3Loader

PrincipalArn = Annotated[
    str, StringConstraints(pattern=r"^arn:aws[\w-]*:(iam|sts)::\d{12}:(root|(user|role|assumed-role)/[\w+=,.@/-]+)$")
]


class BucketPosture(Options):
    """The wishes; those with a default hold for a pipeline that says nothing.

    A wish that is switched off (``false``, ``0`` or ``"any"``) is not looked at: it never undoes what protects the
    bucket. Only what gives something away follows the file both ways: a reader or an expiry that is no longer
    wished for is taken back.
    """

    versioning: bool = Field(default=True, description="Keep what is overwritten or deleted as an old version.")
    encryption: Encryption | Literal["any"] = Field(
        default="AES256", description="How objects are encrypted that do not ask for more; what is stronger is fine."
    )
    kms_key_id: str | None = Field(
        default=None,
        description="ARN of the KMS key. Readers need kms:Decrypt on it; its own key policy gives that.",
        pattern=KEY_ARN,
    )
    bucket_key: bool | None = Field(
        default=None,
        description="Fewer, cheaper calls to KMS. By default on where KMS is switched on here, else as it is.",
    )
    block_public_access: bool = Field(default=True, description="All four switches of Block Public Access.")
    owner_enforced: bool = Field(default=True, description="Everything belongs to the bucket's owner; no ACLs.")
    tls_only: bool = Field(default=True, description="Deny whatever does not come over TLS.")
    deny_other_encryption: bool = Field(
        default=False, description="Deny writes that ask for weaker encryption, another key, or a key of their own."
    )
    deny_unconditional_writes: bool = Field(
        default=False,
        description="Deny writes of the published data without If-None-Match or If-Match. S3 then also refuses copies, "
        "with which a single object is rolled back.",
    )
    readers: tuple[PrincipalArn, ...] = Field(
        default=(), description="ARNs of roles, users or accounts that may read what this pipeline publishes."
    )
    abort_incomplete_days: int = Field(
        default=2, ge=0, description="Days until S3 removes what an unfinished upload left behind. 0: not looked at."
    )
    expire_noncurrent_days: int = Field(
        default=0, ge=0, description="Days until S3 removes a version after it was replaced. 0: never by this pipeline."
    )
    require_posture: bool = Field(
        default=False, description="Stop a run (exit code 77) when the bucket falls short, instead of warning."
    )

    @model_validator(mode="after")
    def _kms_options_fit(self) -> BucketPosture:
        if self.kms_key_id and not self.encryption.startswith("aws:kms"):
            raise ValueError('kms_key_id needs encryption = "aws:kms" or "aws:kms:dsse"')
        if self.bucket_key is not None and self.encryption != "aws:kms":
            raise ValueError('bucket_key needs encryption = "aws:kms"')
        return self

    def asked_for(self, wish: str) -> bool:
        """Whether the pipeline file itself says so, and not only the default."""
        return wish in self.model_fields_set

    def contradictions(self, loader: S3Loader) -> list[str]:
        """What ``[load]`` asks for that this table would have S3 refuse, a sentence each."""
        found = []
        if loader.acl and self.owner_enforced and self.asked_for("owner_enforced"):
            found.append("owner_enforced leaves no ACLs, but acl is set in [load]; drop one of them")
        if self.deny_other_encryption and self.encryption.startswith("aws:kms"):
            if loader.encryption not in (None, self.encryption, "aws:kms:dsse"):
                found.append(f"deny_other_encryption refuses what [load] asks for, {loader.encryption}")
            elif loader.encryption and self.kms_key_id not in (None, loader.kms_key_id):
                found.append("deny_other_encryption refuses every key but kms_key_id; give [load] the same kms_key_id")
        return found
