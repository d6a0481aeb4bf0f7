"""The bucket's policy: our own statements, known by their Sids, among those of others, which stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from etl.bucket.settings import Document, Line, NotSupported, Setting

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Statement = dict[str, Any]

_ALGORITHM = "s3:x-amz-server-side-encryption"
_KMS_KEY = "s3:x-amz-server-side-encryption-aws-kms-key-id"
_CUSTOMER_KEY = "s3:x-amz-server-side-encryption-customer-algorithm"
_STRONG_ENOUGH = {"aws:kms": ["aws:kms", "aws:kms:dsse"], "aws:kms:dsse": ["aws:kms:dsse"]}
_DENIED = {
    "tls_only": "plain http",
    "deny_other_encryption": "other encryption",
    "deny_unconditional_writes": "unconditional writes",
}


class BucketPolicy(Setting):
    """Denials are only ever added, or replaced by their newer wording; grants become what the file says."""

    look = "s3:GetBucketPolicy"
    change = ("s3:PutBucketPolicy", "s3:DeleteBucketPolicy")
    absent = "NoSuchBucketPolicy"

    def read(self, client: S3Client) -> Document:
        text = client.get_bucket_policy(**self.place.request)["Policy"]
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise NotSupported(f"{self.look} on {self.place.uri}: the answer is not a policy") from error

    def compare(self, document: Document) -> list[Line]:
        found = _statements(document)
        lines = []
        if self.posture.tls_only and not self.place.secure:
            ok = False if self.posture.asked_for("tls_only") else None
            lines.append(
                Line("tls_only", "plain http denied", "the endpoint is plain http: it would be locked out", ok)
            )
        for wish, denials in self._denials().items():
            denied = all(_holds(found, denial) for denial in denials)
            what = _DENIED[wish]
            lines.append(Line(wish, f"{what} denied", f"{what} {'denied' if denied else 'allowed'}", denied))
        return lines + self._compare_readers(found)

    def _compare_readers(self, found: list[Statement]) -> list[Line]:
        wanted = self._grants()
        granted = [statement for statement in found if self._is_our_grant(statement) or _holds(wanted, statement)]
        if not wanted and not granted:
            return []
        ok = all(_holds(granted, grant) for grant in wanted) and all(_holds(wanted, grant) for grant in granted)
        wish = _say(self._readers())
        actual = _say({name for statement in granted for names in _principals(statement).values() for name in names})
        return [Line("readers", wish, actual if ok or actual != wish else f"{actual}, for something else", ok)]

    def merged(self, document: Document) -> Document:
        ours = [statement for denials in self._denials().values() for statement in denials] + self._grants()
        replaced = {statement["Sid"] for statement in ours}
        kept = [
            statement
            for statement in _statements(document)
            if statement.get("Sid") not in replaced and not self._is_our_grant(statement)
        ]
        added = [statement for statement in ours if not _holds(kept, statement)]
        # Another version would read the statements of others in another way.
        return {**(document or {"Version": "2012-10-17"}), "Statement": kept + added}

    def write(self, client: S3Client, document: Document) -> None:
        if document["Statement"]:
            client.put_bucket_policy(**self.place.request, Policy=json.dumps(document, ensure_ascii=False))
        else:
            client.delete_bucket_policy(**self.place.request)

    def _denials(self) -> dict[str, list[Statement]]:
        """The statements that each wish takes."""
        denials: dict[str, list[Statement]] = {}
        if self.posture.tls_only and self.place.secure:
            denials["tls_only"] = self._no_plain_http()
        if self.posture.deny_other_encryption:
            denials["deny_other_encryption"] = self._no_other_encryption()
        if self.posture.deny_unconditional_writes:
            denials["deny_unconditional_writes"] = self._no_unconditional_writes()
        return denials

    def _no_plain_http(self) -> list[Statement]:
        everything = [self.place.arn(), self.place.arn("*")]
        return [_deny("EtlTlsOnly", "s3:*", everything, {"Bool": {"aws:SecureTransport": "false"}})]

    def _no_other_encryption(self) -> list[Statement]:
        """A write that asks for nothing gets the bucket's default, so only those that ask are denied."""
        objects = [self.place.arn("*")]
        asks = {"Null": {_ALGORITHM: "false"}}
        statements = [_deny("EtlNoCustomerKeys", "s3:PutObject", objects, {"Null": {_CUSTOMER_KEY: "false"}})]
        if fine := _STRONG_ENOUGH.get(self.posture.encryption):
            # The Sid names the strength: wishing for less later adds a statement and leaves the stricter one.
            sid = "EtlOnlyDsse" if len(fine) == 1 else "EtlOnlyKms"
            statements.append(_deny(sid, "s3:PutObject", objects, {**asks, "StringNotEquals": {_ALGORITHM: fine}}))
        if key := self.posture.kms_key_id:
            # True also for a write that asks for KMS and names no key: it would get the account's own.
            condition = {**asks, "StringNotEquals": {_KMS_KEY: key}}
            statements.append(_deny("EtlOnlyKey", "s3:PutObject", objects, condition))
        return statements

    def _no_unconditional_writes(self) -> list[Statement]:
        place = self.place
        published = [place.arn(path) for path in (place.entry, *place.files)]
        # Uploading parts cannot carry a condition; completing the upload can.
        blind = {
            "Null": {"s3:if-none-match": "true", "s3:if-match": "true"},
            "Bool": {"s3:ObjectCreationOperation": "true"},
        }
        return [_deny(f"EtlNoBlindWrite{place.tag}", "s3:PutObject", published, blind)]

    def _grants(self) -> list[Statement]:
        """To read what is published, and to list its names; not the reports and rejects beside it."""
        if not self.posture.readers:
            return []
        place = self.place
        published = [place.arn(path) for path in (place.entry, *place.files)]
        names = {"StringLike": {"s3:prefix": f"{place.pattern}*"}}
        return [
            {**self._allow("Read"), "Action": "s3:GetObject", "Resource": published},
            {**self._allow("List"), "Action": "s3:ListBucket", "Resource": place.arn(), "Condition": names},
        ]

    def _allow(self, what: str) -> Statement:
        return {"Sid": f"Etl{what}{self.place.tag}", "Effect": "Allow", "Principal": {"AWS": self._readers()}}

    def _is_our_grant(self, statement: Statement) -> bool:
        return statement.get("Sid") in (f"EtlRead{self.place.tag}", f"EtlList{self.place.tag}")

    def _readers(self) -> list[str]:
        return sorted(set(self.posture.readers))


def _deny(sid: str, action: str, resource: list[str], condition: dict[str, Any]) -> Statement:
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resource,
        "Condition": condition,
    }


def _statements(document: Document) -> list[Statement]:
    """A policy of one statement may hold it without a list."""
    found = document.get("Statement", [])
    return [found] if isinstance(found, dict) else list(found)


def _holds(statements: Iterable[Statement], wanted: Statement) -> bool:
    """Whether one of them says the same as ``wanted``, under whatever Sid."""
    return any(_canonical(statement) == _canonical(wanted) for statement in statements)


def _canonical(statement: Statement) -> Any:
    """What a statement says, without its Sid, the order of its lists and the other freedoms of the policy language."""
    said = {name: value for name, value in statement.items() if name not in ("Sid", "Condition", "Principal")}
    conditions = statement.get("Condition", {})
    return (
        {name: _set(value) for name, value in said.items()},
        _principals(statement),
        {test: {key.lower(): _set(value) for key, value in keys.items()} for test, keys in conditions.items()},
    )


def _set(value: Any) -> set[str]:
    values = value if isinstance(value, list) else [value]
    return {str(item).lower() if isinstance(item, bool) else str(item) for item in values}


def _principals(statement: Statement) -> dict[str, set[str]]:
    principal = statement.get("Principal", {})
    kinds = principal if isinstance(principal, dict) else {"AWS": principal}
    return {kind: _set(names) for kind, names in kinds.items()}


def _say(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
