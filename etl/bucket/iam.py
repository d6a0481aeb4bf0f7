"""The least that a pipeline must be allowed to do, as IAM policies: one to run it, one to set up its bucket."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etl.bucket.command import SETTINGS
from etl.bucket.place import Place
from etl.bucket.posture import BucketPosture
from etl.s3.client import make_client

if TYPE_CHECKING:
    from etl.loaders.s3 import S3Loader

Policy = dict[str, Any]
Statement = dict[str, Any]


def iam_command(loader: S3Loader, posture: BucketPosture) -> str:
    """Both policies as one JSON object: ``run`` for every command but one, ``bucket`` for ``bucket --apply``.

    Asks nobody, so that it works before there is any access.
    """
    place = Place.of(loader, make_client(loader.region))
    policies = {"run": run_policy(place, posture, loader), "bucket": setup_policy(place)}
    return json.dumps(policies, indent=2, ensure_ascii=False)


def run_policy(place: Place, posture: BucketPosture, loader: S3Loader) -> Policy:
    """To run, check, list versions, roll back and sweep; to see what the bucket is, not to change it.

    Nothing in it removes a version for good, or reaches another pipeline's files.
    """
    objects = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    if loader.tags:
        objects += ["s3:PutObjectTagging"]
    if loader.acl:
        objects += ["s3:PutObjectAcl"]
    within = [f"{place.pattern}*"] if place.is_dataset else [place.entry, *place.reports]
    arns = [place.arn(path) for path in within]
    names = {"StringLike": {"s3:prefix": within}}
    looks = [setting.look for setting in SETTINGS]

    statements = [
        _allow("Objects", objects, arns),
        # Also how S3 tells a missing object from a forbidden one: by its own key as prefix.
        _allow("Names", ["s3:ListBucket"], [place.arn()], names),
        _allow("Uploads", ["s3:ListBucketMultipartUploads"], [place.arn()]),
        _allow("Posture", looks, [place.arn()]),
    ]
    if place.is_dataset:
        statements += [_allow("Sweep", ["s3:DeleteObject"], [place.arn(path) for path in place.files])]
    else:
        statements += [
            _allow("Versions", ["s3:ListBucketVersions"], [place.arn()], names),
            _allow("Rollback", ["s3:GetObjectVersion"], [place.arn(place.entry)]),
        ]
    return _policy([_of_owner(statement, place) for statement in statements] + _use_keys(loader, posture))


def setup_policy(place: Place) -> Policy:
    """To create the bucket and to change its settings; not to touch what is in it."""
    looks = [setting.look for setting in SETTINGS]
    changes = [action for setting in SETTINGS for action in setting.change]
    settings = _allow("Settings", ["s3:ListBucket", *looks, *changes], [place.arn()])
    return _policy([_of_owner(settings, place), _allow("Create", ["s3:CreateBucket"], [place.arn()])])


def _use_keys(loader: S3Loader, posture: BucketPosture) -> list[Statement]:
    """S3 asks KMS in the caller's name: for a key to write, to decrypt what is read, and for the parts of an upload.

    Through S3 only, whose name in ``kms:ViaService`` ends in amazonaws.com in every partition.
    """
    keys = sorted({key for key in (loader.kms_key_id, posture.kms_key_id) if key})
    if not keys:
        return []
    services = sorted({f"s3.{key.split(':')[3]}.amazonaws.com" for key in keys})
    through_s3 = {"StringEquals": {"kms:ViaService": services}}
    return [_allow("Keys", ["kms:GenerateDataKey", "kms:Decrypt"], keys, through_s3)]


def _policy(statements: Sequence[Statement]) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(sid: str, actions: list[str], resources: list[str], condition: dict[str, Any] | None = None) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
    return {**statement, "Condition": condition} if condition else statement


def _of_owner(statement: Statement, place: Place) -> Statement:
    """Only in the account that the bucket should be in: elsewhere somebody may have taken its name."""
    if place.owner is None:
        return statement
    condition = {**statement.get("Condition", {}), "StringEquals": {"s3:ResourceAccount": place.owner}}
    return {**statement, "Condition": condition}
