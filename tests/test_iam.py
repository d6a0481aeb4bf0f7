"""The IAM policies against the calls that are really made: every one is allowed, and little else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame

from etl.bucket.command import bucket_command, shortfalls
from etl.bucket.iam import iam_command
from etl.bucket.posture import BucketPosture
from etl.errors import EtlError
from etl.loaders.s3 import S3Loader
from etl.s3.options import MIB
from tests.conftest import Bucket
from tests.contracts import LoaderContract, published
from tests.s3_front import Call, Front
from tests.test_s3_loader import random_batches

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "arn:aws:kms:us-east-1:123456789012:key/ffffffff-12ab-34cd-56ef-1234567890ab"
OWNER = "123456789012"
READER = "arn:aws:iam::111122223333:role/ann"

# What S3 asks for, by the "Actions, resources, and condition keys for Amazon S3" page of its documentation.
BUCKET_ACTIONS = {
    ("GET", "versioning"): "s3:GetBucketVersioning",
    ("PUT", "versioning"): "s3:PutBucketVersioning",
    ("GET", "encryption"): "s3:GetEncryptionConfiguration",
    ("PUT", "encryption"): "s3:PutEncryptionConfiguration",
    ("GET", "publicAccessBlock"): "s3:GetBucketPublicAccessBlock",
    ("PUT", "publicAccessBlock"): "s3:PutBucketPublicAccessBlock",
    ("GET", "ownershipControls"): "s3:GetBucketOwnershipControls",
    ("PUT", "ownershipControls"): "s3:PutBucketOwnershipControls",
    ("GET", "policy"): "s3:GetBucketPolicy",
    ("PUT", "policy"): "s3:PutBucketPolicy",
    ("DELETE", "policy"): "s3:DeleteBucketPolicy",
    ("GET", "lifecycle"): "s3:GetLifecycleConfiguration",
    ("PUT", "lifecycle"): "s3:PutLifecycleConfiguration",
    ("DELETE", "lifecycle"): "s3:PutLifecycleConfiguration",
    ("GET", "uploads"): "s3:ListBucketMultipartUploads",
    ("GET", "versions"): "s3:ListBucketVersions",
    ("GET", "list-type"): "s3:ListBucket",
    ("HEAD", ""): "s3:ListBucket",
    ("PUT", ""): "s3:CreateBucket",
}
OBJECT_ACTIONS = {
    ("HEAD", ""): "s3:GetObject",
    ("GET", ""): "s3:GetObject",
    ("HEAD", "versionId"): "s3:GetObjectVersion",
    ("GET", "versionId"): "s3:GetObjectVersion",
    ("GET", "uploadId"): "s3:ListMultipartUploadParts",
    ("PUT", ""): "s3:PutObject",
    ("PUT", "uploadId"): "s3:PutObject",
    ("POST", "uploads"): "s3:PutObject",
    ("POST", "uploadId"): "s3:PutObject",
    ("DELETE", "uploadId"): "s3:AbortMultipartUpload",
    ("DELETE", ""): "s3:DeleteObject",
    ("DELETE", "versionId"): "s3:DeleteObjectVersion",
}
HEADER_ACTIONS = {"x-amz-tagging": "s3:PutObjectTagging", "x-amz-acl": "s3:PutObjectAcl"}


def needs(call: Call) -> list[tuple[str, str, dict[str, str]]]:
    """What a call takes: action, ARN, and the values that conditions look at."""
    known = OBJECT_ACTIONS if call.key else BUCKET_ACTIONS
    telling = [name for name in call.query if (call.method, name) in known]
    action = known[call.method, telling[0] if telling else ""]
    arn = f"arn:aws:s3:::{call.bucket}{'/' if call.key else ''}{call.key}"
    context = {"s3:ResourceAccount": OWNER}
    if not call.key and "prefix" in call.query:
        context["s3:prefix"] = call.query["prefix"]
    found = [(action, arn, context)]
    headers = {name.lower(): value for name, value in call.headers.items()}
    found += [(also, arn, context) for header, also in HEADER_ACTIONS.items() if header in headers]
    if source := headers.get("x-amz-copy-source"):
        place, _, version = source.partition("?versionId=")
        action = "s3:GetObjectVersion" if version else "s3:GetObject"
        found.append((action, f"arn:aws:s3:::{place.lstrip('/')}", context))
    return found


def allows(policy: Any, action: str, arn: str, context: Mapping[str, str]) -> bool:
    """As IAM decides, for policies that only allow. An element that this does not know is an error, not a yes."""
    return any(
        action in statement["Action"]
        and any(matches(pattern, arn) for pattern in statement["Resource"])
        and all(holds(test, wanted, context) for test, wanted in statement.get("Condition", {}).items())
        for statement in policy["Statement"]
        if statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"} and statement["Effect"] == "Allow"
    )


def holds(test: str, wanted: Mapping[str, Any], context: Mapping[str, str]) -> bool:
    compare = {"StringEquals": str.__eq__, "StringLike": matches}[test.removesuffix("IfExists")]
    for name, values in wanted.items():
        if name not in context:
            if not test.endswith("IfExists"):
                return False
            continue
        options = [values] if isinstance(values, str) else values
        if not any(compare(option, context[name]) for option in options):
            return False
    return True


def matches(pattern: str, text: str) -> bool:
    """``*`` and ``?`` are wildcards, ``${*}``, ``${?}`` and ``${$}`` the characters themselves."""
    wild = {"*": ".*", "?": "."}
    tokens = re.findall(r"\$\{[*?$]\}|.", pattern, re.DOTALL)
    expression = "".join(wild.get(token) or re.escape(token[2] if len(token) > 1 else token) for token in tokens)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def loader_at(place: str, **options: Any) -> S3Loader:
    """``place``: a key, or a prefix if it ends in a slash."""
    return S3Loader(**{"bucket": "box", "prefix" if place.endswith("/") else "key": place, **options})


def policies(loader: S3Loader, posture: BucketPosture | None = None) -> Any:
    return json.loads(iam_command(loader, posture or BucketPosture()))


def refused(policy: Any, calls: list[Call]) -> list[tuple[str, str, dict[str, str]]]:
    return [need for call in calls for need in needs(call) if not allows(policy, *need)]


def use_everything(loader: S3Loader, folder: Path) -> None:
    """Whatever a run and the commands do: small and large content, failures, the report, history, sweeping."""
    report = folder / "report.json"
    report.write_text('{"published": null}', encoding="utf-8")
    loader.check()
    for count in (1, 7):
        loader.live()
        published(loader, random_batches(count), recipe=f"r{count}", id=f"run-{count}")
        loader.keep(f"_runs/run-{count}.json", report)
        loader.kept("_runs/_unchanged-0123456789abcdef.json")  # there is none
        loader.keep(f"_rejects/run-{count}.jsonl", report)
    published(loader, random_batches(7))
    if loader.prefix:  # fewer versions than there were: sweeping finds manifests, too
        loader = loader.model_copy(update={"keep_versions": 2})
        published(loader, random_batches(2), recipe="r0")

    def failing() -> Iterator[DataFrame]:
        yield from random_batches(7)
        raise EtlError("no more")

    with pytest.raises(EtlError, match="no more"):
        loader.load(failing(), LoaderContract.a_run())
    oldest = loader.versions()[-1]
    loader.rollback(oldest.run_id)
    loader.sweep(timedelta(0), apply=True)
    shortfalls(loader, BucketPosture())


class TestRunning:
    @pytest.mark.parametrize("place", ["lego/sets.parquet", "sales/"])
    def test_every_call_is_allowed(self, bucket: Bucket, front: Front, tmp_path: Path, place: str) -> None:
        size = {"max_file_bytes": 4 * MIB} if place.endswith("/") else {"part_bytes": 5 * MIB}
        loader = loader_at(place, bucket=bucket.name, tags={"team": "a"}, expected_bucket_owner=OWNER, **size)
        use_everything(loader, tmp_path)
        done = {action for call in front.calls for action, *_ in needs(call)}
        assert done >= {"s3:GetObject", "s3:PutObject", "s3:PutObjectTagging", "s3:GetBucketVersioning"}
        assert done >= (
            {"s3:DeleteObject"} if place.endswith("/") else {"s3:AbortMultipartUpload", "s3:GetObjectVersion"}
        )
        assert refused(policies(loader)["run"], front.calls) == []

    def test_an_acl_takes_its_own_permission(self, bucket: Bucket, front: Front) -> None:
        loader = loader_at("a.csv", bucket=bucket.name, acl="bucket-owner-full-control")
        published(loader, random_batches(1))
        assert refused(policies(loader)["run"], front.calls) == []
        without = policies(loader_at("a.csv", bucket=bucket.name))["run"]
        assert {action for action, *_ in refused(without, front.calls)} == {"s3:PutObjectAcl"}

    @pytest.mark.parametrize("place", ["lego/sets.parquet", "sales/"])
    def test_nothing_of_others_and_nothing_for_good(self, place: str) -> None:
        policy = policies(loader_at(place))["run"]
        for action, path in [
            ("s3:GetObject", "other/file.csv"),
            ("s3:PutObject", "other/file.csv"),
            ("s3:PutObject", "lego/sets.parquet.bak"),
            ("s3:PutObject", "legolego/sets.parquet"),
            ("s3:PutObject", "salesman/data/x"),
            ("s3:DeleteObject", "lego/sets.parquet"),
            ("s3:DeleteObject", "lego/_runs/x.json"),
            ("s3:DeleteObject", "sales/_current.json"),
            ("s3:DeleteObject", "sales/_rejects/x.jsonl"),
            ("s3:DeleteObjectVersion", "sales/data/x"),
            ("s3:DeleteObjectVersion", "lego/sets.parquet"),
            ("s3:PutObjectAcl", "lego/sets.parquet"),
            ("s3:BypassGovernanceRetention", "sales/data/x"),
        ]:
            assert not allows(policy, action, f"arn:aws:s3:::box/{path}", {}), (action, path)

    def test_names_of_others_cannot_be_listed(self) -> None:
        policy = policies(loader_at("lego/sets.parquet"))["run"]
        for action in ("s3:ListBucket", "s3:ListBucketVersions"):
            assert allows(policy, action, "arn:aws:s3:::box", {"s3:prefix": "lego/sets.parquet"})
            assert not allows(policy, action, "arn:aws:s3:::box", {"s3:prefix": "lego/"})
            assert not allows(policy, action, "arn:aws:s3:::box", {"s3:prefix": ""})
            assert not allows(policy, action, "arn:aws:s3:::box", {})

    def test_wildcards_in_a_key_mean_themselves(self) -> None:
        policy = policies(loader_at("a*$.csv"))["run"]
        assert allows(policy, "s3:PutObject", "arn:aws:s3:::box/a*$.csv", {})
        assert not allows(policy, "s3:PutObject", "arn:aws:s3:::box/abc$.csv", {})


class TestMending:
    def test_every_call_is_allowed(self, bucket: Bucket, front: Front) -> None:
        """Created with everything, then with nothing: the policy and the lifecycle are written, and deleted."""
        loader = loader_at("a.csv", bucket=f"{bucket.name}-new")
        nothing = BucketPosture(abort_incomplete_days=0)
        giving = BucketPosture(abort_incomplete_days=0, readers=(READER,), expire_noncurrent_days=9)
        for posture in (giving, nothing):
            assert bucket_command(loader, posture, create=True, out=lambda _: None) == 0
        done = {action for call in front.calls for action, *_ in needs(call)}
        assert done == set(BUCKET_ACTIONS.values()) - {"s3:ListBucketMultipartUploads", "s3:ListBucketVersions"}
        assert sum(call.method == "DELETE" for call in front.calls) == 2
        assert refused(policies(loader)["bucket"], front.calls) == []

    def test_it_reaches_no_object(self) -> None:
        policy = policies(loader_at("a.csv"))["bucket"]
        assert {arn for statement in policy["Statement"] for arn in statement["Resource"]} == {"arn:aws:s3:::box"}


@pytest.mark.parametrize("place", ["lego/sets.parquet", "sales/"])
class TestForm:
    def test_iam_takes_them(self, place: str) -> None:
        """A managed policy has at most 6,144 characters, white space aside; a Sid is of letters and digits."""
        loader = loader_at(
            place, bucket="b" * 63, tags={"a": "b"}, encryption="aws:kms", kms_key_id=KEY, expected_bucket_owner=OWNER
        )
        for policy in policies(loader).values():
            assert policy["Version"] == "2012-10-17"
            assert len(re.sub(r"\s", "", json.dumps(policy))) < 6144
            assert all(statement["Sid"].isalnum() for statement in policy["Statement"])
            sids = [statement["Sid"] for statement in policy["Statement"]]
            assert len(set(sids)) == len(sids)

    def test_no_action_is_a_pattern(self, place: str) -> None:
        for policy in policies(loader_at(place)).values():
            for statement in policy["Statement"]:
                assert statement["Effect"] == "Allow"
                assert not any("*" in action for action in statement["Action"])
                assert "*" not in statement["Resource"]

    def test_arns_are_of_the_partition(self, place: str) -> None:
        partitions = {"eu-west-1": "aws", "cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov"}
        for region, partition in partitions.items():
            for policy in policies(loader_at(place, region=region)).values():
                arns = [arn for statement in policy["Statement"] for arn in statement["Resource"]]
                assert all(arn.startswith(f"arn:{partition}:s3:::box") for arn in arns)

    def test_only_in_the_expected_account(self, place: str) -> None:
        owned = policies(loader_at(place, expected_bucket_owner=OWNER))
        for policy in owned.values():
            for statement in policy["Statement"]:
                if statement["Sid"] != "Create":  # what is not there yet belongs to nobody
                    assert statement["Condition"]["StringEquals"] == {"s3:ResourceAccount": OWNER}
        names = next(each for each in owned["run"]["Statement"] if each["Sid"] == "Names")
        assert "StringLike" in names["Condition"]

    def test_kms_only_where_a_key_is_named(self, place: str) -> None:
        assert "kms:" not in json.dumps(policies(loader_at(place, encryption="aws:kms")))

    def test_kms_through_s3_in_the_region_of_the_key(self, place: str) -> None:
        loader = loader_at(place, encryption="aws:kms", kms_key_id=KEY)
        found = policies(loader, BucketPosture(encryption="aws:kms", kms_key_id=OTHER_KEY))
        assert found["run"]["Statement"][-1] == {
            "Sid": "Keys",
            "Effect": "Allow",
            "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
            "Resource": [KEY, OTHER_KEY],
            "Condition": {
                "StringEquals": {"kms:ViaService": ["s3.eu-west-1.amazonaws.com", "s3.us-east-1.amazonaws.com"]}
            },
        }
        assert "kms:" not in json.dumps(found["bucket"])


def test_the_checker_of_this_file_can_say_no() -> None:
    policy = policies(loader_at("lego/sets.parquet", expected_bucket_owner=OWNER))["run"]
    key = "arn:aws:s3:::box/lego/sets.parquet"
    assert allows(policy, "s3:PutObject", key, {"s3:ResourceAccount": OWNER})
    assert not allows(policy, "s3:PutObject", key, {"s3:ResourceAccount": "999999999999"})
    assert not allows(policy, "s3:PutObject", key, {})
    assert not allows(policy, "s3:PutObject", key.upper(), {"s3:ResourceAccount": OWNER})
    assert not allows(policy, "s3:PutBucketPolicy", "arn:aws:s3:::box", {"s3:ResourceAccount": OWNER})
