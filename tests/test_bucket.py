"""The bucket's posture against a real S3 server: it is seen, mended, kept, and nothing of others is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from etl.bucket.command import SETTINGS, bucket_command, is_amazon, shortfalls, show_and_mend
from etl.bucket.lifecycle import Lifecycle
from etl.bucket.place import Place
from etl.bucket.policy import BucketPolicy
from etl.bucket.posture import BucketPosture
from etl.bucket.settings import DefaultEncryption, Document, Ownership, PublicAccess, Setting
from etl.errors import AccessError, ConfigError, RetryLater
from etl.loaders.s3 import S3Loader
from etl.s3.client import make_client
from tests.conftest import Bucket
from tests.s3_front import Front, front_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "arn:aws:kms:us-east-1:123456789012:key/ffffffff-12ab-34cd-56ef-1234567890ab"
ANN = "arn:aws:iam::111122223333:role/ann"
BEN = "arn:aws:iam::444455556666:user/ben"
EVERYTHING = BucketPosture(
    encryption="aws:kms",
    kms_key_id=KEY,
    tls_only=True,
    deny_other_encryption=True,
    deny_unconditional_writes=True,
    readers=(BEN, ANN),
    expire_noncurrent_days=30,
)
SILENT = BucketPosture(
    versioning=False,
    encryption="any",
    block_public_access=False,
    owner_enforced=False,
    tls_only=False,
    abort_incomplete_days=0,
)


class Subject:
    """A bucket as S3 makes it, with a pipeline that publishes to it."""

    def __init__(self, client: S3Client, name: str, key: str = "lego/sets.parquet") -> None:
        self.client = client
        self.client_in_use = client
        self.name = name
        self.loader = S3Loader(bucket=name, key=key)
        self.said: list[str] = []

    def command(self, posture: BucketPosture, *, apply: bool = False, create: bool = False, secure: bool = True) -> int:
        """As ``bucket_command``, with a client that is there already. ``secure``: as if this were https, as on AWS."""
        self.said = []
        place = replace(Place.of(self.loader, self.client), secure=secure)
        return show_and_mend(self.client_in_use, place, posture, apply=apply, create=create, out=self.said.append)

    def marks(self) -> dict[str, str]:
        """Wish -> what was last said of it: ok, FAIL or n/a."""
        words = [line.split() for line in self.said]
        return {line[1]: line[0] for line in words if line[0] in ("ok", "FAIL", "n/a")}

    def line(self, wish: str) -> str:
        return next(line for line in reversed(self.said) if f" {wish} " in line)

    def policy(self) -> Any:
        return json.loads(self.policy_text())

    def policy_text(self) -> str:
        return self.client.get_bucket_policy(Bucket=self.name)["Policy"]

    def put_policy(self, policy: Any) -> None:
        self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy, ensure_ascii=False))

    def rules(self) -> list[Any]:
        return list(self.client.get_bucket_lifecycle_configuration(Bucket=self.name)["Rules"])

    def put_rules(self, *rules: Any) -> list[Any]:
        """As the server gives them back: it fills in what it likes."""
        self.client.put_bucket_lifecycle_configuration(Bucket=self.name, LifecycleConfiguration={"Rules": list(rules)})
        return self.rules()

    def encryption(self) -> Any:
        return self.client.get_bucket_encryption(Bucket=self.name)["ServerSideEncryptionConfiguration"]["Rules"][0]

    def put_encryption(self, algorithm: Any, key: str | None = None, bucket_key: bool = False) -> None:
        default: Any = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
        rule: Any = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key}
        self.client.put_bucket_encryption(Bucket=self.name, ServerSideEncryptionConfiguration={"Rules": [rule]})


@pytest.fixture
def subject(bucket: Bucket) -> Subject:
    name = f"{bucket.name}-bare"
    bucket.client.create_bucket(Bucket=name)
    return Subject(bucket.client, name)


@pytest.fixture
def front(s3_url: str, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Between the code under test and the server; ``subject.client`` still talks to the server itself."""
    with front_of(s3_url) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
        subject.client_in_use = boto3.client("s3", endpoint_url=front.url)
        yield front


def setting_of(kind: type[Setting], posture: BucketPosture, scope: str = "lego/sets.parquet") -> Any:
    return kind(Place("b", scope, "us-east-1"), posture)


def sids(policy: Any) -> list[str]:
    return [statement.get("Sid") for statement in policy["Statement"]]


class TestSeeing:
    def test_a_new_bucket_is_shown_line_by_line(self, subject: Subject) -> None:
        assert subject.command(BucketPosture()) == AccessError.exit_code
        assert subject.said == [
            f"s3://{subject.name}, for lego/sets.parquet",
            "                             wanted               actual",
            "FAIL  versioning             Enabled              off",
            "FAIL  encryption             AES256               none",
            "FAIL  block_public_access    on                   off",
            "FAIL  owner_enforced         BucketOwnerEnforced  not set",
            "FAIL  tls_only               plain http denied    plain http allowed",
            "FAIL  abort_incomplete_days  after 2 days         never",
            "`python main.py bucket --apply` changes what differs, and loosens nothing that is stricter",
        ]

    def test_looking_changes_nothing(self, subject: Subject, front: Front) -> None:
        subject.command(EVERYTHING)
        shortfalls(subject.loader, EVERYTHING)
        assert front.calls
        assert not any(call.writes for call in front.calls)

    def test_every_setting_is_told_apart(self, subject: Subject) -> None:
        subject.client.put_bucket_versioning(Bucket=subject.name, VersioningConfiguration={"Status": "Suspended"})
        subject.client.put_public_access_block(
            Bucket=subject.name,
            PublicAccessBlockConfiguration={"BlockPublicAcls": True, "IgnorePublicAcls": True},
        )
        subject.client.put_bucket_ownership_controls(
            Bucket=subject.name, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
        )
        subject.command(BucketPosture())
        assert subject.line("versioning").endswith("  Suspended")
        assert subject.line("block_public_access").endswith("without BlockPublicPolicy, RestrictPublicBuckets")
        assert subject.line("owner_enforced").endswith("  ObjectWriter")

    def test_what_is_switched_off_is_not_looked_at(self, subject: Subject) -> None:
        assert subject.command(SILENT) == 0
        assert subject.marks() == {}

    def test_a_missing_bucket_is_a_mistake_in_the_configuration(self, bucket: Bucket) -> None:
        missing = Subject(bucket.client, f"{bucket.name}-missing")
        with pytest.raises(ConfigError, match="does not exist"):
            missing.command(BucketPosture())

    @pytest.mark.parametrize(
        ("posture", "mark", "exit_code"),
        [(BucketPosture(), "n/a", 0), (BucketPosture(tls_only=True), "FAIL", AccessError.exit_code)],
        ids=["by default", "named in the file"],
    )
    def test_a_pipeline_that_speaks_plain_http_is_not_locked_out(
        self, subject: Subject, posture: BucketPosture, mark: str, exit_code: int
    ) -> None:
        assert bucket_command(subject.loader, posture, apply=True, out=subject.said.append) == exit_code
        assert subject.marks()["tls_only"] == mark
        assert subject.line("tls_only").endswith("the endpoint is plain http: it would be locked out")
        with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
            subject.policy()


class TestApplying:
    def test_everything_is_brought_to_what_is_wanted(self, subject: Subject) -> None:
        assert subject.command(EVERYTHING, apply=True) == 0
        assert set(subject.marks().values()) == {"ok"}
        name, client = subject.name, subject.client
        assert client.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
        assert subject.encryption() == {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
            "BucketKeyEnabled": True,
        }
        switches = client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
        assert list(switches.values()) == [True] * 4
        owner = client.get_bucket_ownership_controls(Bucket=name)["OwnershipControls"]["Rules"]
        assert owner == [{"ObjectOwnership": "BucketOwnerEnforced"}]
        assert subject.rules() == [
            {
                "ID": "etl-abort-uploads-4a39f07b",
                "Status": "Enabled",
                "Filter": {"Prefix": "lego/sets.parquet"},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
            },
            {
                "ID": "etl-expire-versions-4a39f07b",
                "Status": "Enabled",
                "Filter": {"Prefix": "lego/sets.parquet"},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
            },
        ]

    def test_first_it_is_shown_and_then_changed(self, subject: Subject) -> None:
        subject.command(BucketPosture(), apply=True)
        shown = subject.said.index("changing what differs")
        assert sum(line.startswith("FAIL") for line in subject.said[:shown]) == 6
        assert not any(line.startswith("FAIL") for line in subject.said[shown:])

    @pytest.mark.parametrize("posture", [BucketPosture(), EVERYTHING], ids=["default", "everything"])
    def test_applying_again_writes_nothing(self, subject: Subject, front: Front, posture: BucketPosture) -> None:
        assert subject.command(posture, apply=True) == 0
        front.calls.clear()
        assert subject.command(posture, apply=True) == 0
        assert "changing what differs" not in subject.said
        assert not any(call.writes for call in front.calls)

    def test_only_what_differs_is_written(self, subject: Subject, front: Front) -> None:
        subject.command(EVERYTHING, apply=True)
        subject.client.put_bucket_versioning(Bucket=subject.name, VersioningConfiguration={"Status": "Suspended"})
        front.calls.clear()
        assert subject.command(EVERYTHING, apply=True) == 0
        assert [set(call.query) for call in front.calls if call.writes] == [{"versioning"}]

    def test_two_pipelines_share_a_bucket(self, subject: Subject) -> None:
        other = Subject(subject.client, subject.name, key="sales/2026.csv")
        assert subject.command(EVERYTHING, apply=True) == 0
        other_wishes = EVERYTHING.model_copy(update={"readers": (ANN,), "expire_noncurrent_days": 7})
        assert other.command(other_wishes, apply=True) == 0
        assert other.command(other_wishes) == subject.command(EVERYTHING) == 0
        assert len(subject.rules()) == 4

    def test_every_call_names_the_owner(self, subject: Subject, front: Front) -> None:
        """Through the settings themselves, so that no option of the loader stands between."""
        place = Place(subject.name, "lego/sets.parquet", "us-east-1", owner="123456789012")
        client = make_client()
        for kind in SETTINGS:
            setting = kind(place, EVERYTHING)
            setting.write(client, setting.merged({}))
            setting.read(client)
        BucketPolicy(place, EVERYTHING).write(client, {"Statement": []})
        Lifecycle(place, EVERYTHING).write(client, {"Rules": []})
        assert len(front.calls) == 2 * len(SETTINGS) + 2
        assert {call.headers.get("x-amz-expected-bucket-owner") for call in front.calls} == {"123456789012"}


class TestCreating:
    def test_creates_and_applies(self, bucket: Bucket) -> None:
        subject = Subject(bucket.client, f"{bucket.name}-created")
        assert subject.command(BucketPosture(), create=True) == 0
        assert subject.said[1] == "created in us-east-1"
        assert subject.client.get_bucket_versioning(Bucket=subject.name)["Status"] == "Enabled"

    def test_creates_in_the_region_of_the_loader(self, bucket: Bucket) -> None:
        subject = Subject(bucket.client, f"{bucket.name}-abroad")
        subject.loader = S3Loader(bucket=subject.name, key="a.csv", region="eu-west-1")
        assert bucket_command(subject.loader, BucketPosture(), create=True, out=subject.said.append) == 0
        assert subject.said[1] == "created in eu-west-1"
        assert subject.client.get_bucket_location(Bucket=subject.name)["LocationConstraint"] == "eu-west-1"

    def test_a_bucket_that_is_there_is_mended(self, subject: Subject, front: Front) -> None:
        assert subject.command(BucketPosture(), create=True) == 0
        assert subject.said[1] == "it is there already"
        assert [call for call in front.calls if call.method == "PUT" and not call.query] == []

    def test_a_name_that_another_account_has(self, subject: Subject, front: Front) -> None:
        front.refuse("HEAD", "", 404)
        front.refuse("PUT", "", 409, "BucketAlreadyExists")
        with pytest.raises(ConfigError, match="another account"):
            subject.command(BucketPosture(), create=True)

    def test_a_bucket_that_may_not_be_seen(self, subject: Subject, front: Front) -> None:
        front.refuse("HEAD", "", 403)
        with pytest.raises(AccessError, match="s3:ListBucket"):
            subject.command(BucketPosture(), create=True)
        assert not any(call.writes for call in front.calls)


class TestEncryptionIsNeverLoosened:
    @pytest.mark.parametrize("found", ["aws:kms", "aws:kms:dsse"])
    def test_stronger_than_wanted_is_fine(self, subject: Subject, front: Front, found: str) -> None:
        subject.put_encryption(found, OTHER_KEY)
        before = subject.encryption()
        subject.command(BucketPosture(), apply=True)
        assert subject.marks()["encryption"] == "ok"
        assert subject.encryption() == before
        assert not any("encryption" in call.query for call in front.calls if call.writes)

    def test_the_wanted_key_replaces_another_and_the_stronger_algorithm_stays(self) -> None:
        found = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms:dsse", "KMSMasterKeyID": OTHER_KEY}}
        setting = setting_of(DefaultEncryption, BucketPosture(encryption="aws:kms", kms_key_id=KEY))
        assert [line.ok for line in setting.compare(found)] == [False]
        assert setting.merged(found)["ApplyServerSideEncryptionByDefault"] == {
            "SSEAlgorithm": "aws:kms:dsse",
            "KMSMasterKeyID": KEY,
        }

    def test_a_key_that_nobody_asked_to_change_stays(self, subject: Subject) -> None:
        subject.put_encryption("aws:kms", OTHER_KEY, bucket_key=True)
        assert subject.command(BucketPosture(encryption="aws:kms:dsse"), apply=True) == 0
        assert subject.encryption() == {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms:dsse", "KMSMasterKeyID": OTHER_KEY},
            "BucketKeyEnabled": False,
        }

    @pytest.mark.parametrize("found", [True, False])
    @pytest.mark.parametrize("wanted", [True, False, None])
    def test_bucket_key(self, wanted: bool | None, found: bool) -> None:
        default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}
        rule = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": found}
        setting = setting_of(DefaultEncryption, BucketPosture(encryption="aws:kms", bucket_key=wanted))
        assert [line.ok for line in setting.compare(rule)] == [wanted in (None, found)]
        assert setting.merged(rule) == {**rule, "BucketKeyEnabled": found if wanted is None else wanted}

    def test_the_key_may_be_named_by_its_id(self) -> None:
        default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY.rpartition("/")[2]}
        setting = setting_of(DefaultEncryption, BucketPosture(encryption="aws:kms", kms_key_id=KEY))
        assert [line.ok for line in setting.compare({"ApplyServerSideEncryptionByDefault": default})] == [True]

    def test_what_else_the_rule_says_is_kept(self) -> None:
        found = {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"},
            "BlockedEncryptionTypes": {"EncryptionType": ["SSE-C"]},
        }
        merged = setting_of(DefaultEncryption, BucketPosture(encryption="aws:kms")).merged(found)
        assert merged["BlockedEncryptionTypes"] == {"EncryptionType": ["SSE-C"]}
        assert merged["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms"}


def test_switches_that_we_do_not_know_are_kept() -> None:
    merged = setting_of(PublicAccess, BucketPosture()).merged({"BlockPublicAcls": False, "BlockTheMoon": True})
    assert merged["BlockTheMoon"] is True
    assert merged["BlockPublicAcls"] is True


def test_versioning_is_not_suspended_by_a_wish_that_is_off(subject: Subject) -> None:
    subject.client.put_bucket_versioning(Bucket=subject.name, VersioningConfiguration={"Status": "Enabled"})
    assert subject.command(SILENT, apply=True) == 0
    assert subject.client.get_bucket_versioning(Bucket=subject.name)["Status"] == "Enabled"


FOREIGN = {
    "Sid": "Büro, 3. Stock",
    "Effect": "Deny",
    "NotPrincipal": {"AWS": [BEN, "arn:aws:iam::444455556666:root"]},
    "NotAction": ["s3:Get*", "s3:List*"],
    "Resource": "arn:aws:s3:::whatever/*",
    "Condition": {"NumericLessThan": {"s3:TlsVersion": 1.2}, "Bool": {"aws:MultiFactorAuthPresent": False}},
}


def tls_denial(bucket: str, **changes: Any) -> dict[str, Any]:
    """As other people write it."""
    return {
        "Principal": {"AWS": "*"},
        "Resource": [f"arn:aws:s3:::{bucket}/*", f"arn:aws:s3:::{bucket}"],
        "Condition": {"Bool": {"AWS:SecureTransport": [False]}},
        "Effect": "Deny",
        "Action": ["s3:*"],
        "Sid": "InsecureTransport",
        **changes,
    }


class TestPoliciesOfOthers:
    def test_their_statements_stay_byte_for_byte(self, subject: Subject) -> None:
        subject.put_policy({"Version": "2008-10-17", "Id": "theirs", "Statement": FOREIGN})
        assert subject.command(EVERYTHING, apply=True) == 0
        assert json.dumps(FOREIGN, ensure_ascii=False) in subject.policy_text()
        policy = subject.policy()
        assert policy["Statement"][0] == FOREIGN
        assert (policy["Version"], policy["Id"]) == ("2008-10-17", "theirs")
        assert len(policy["Statement"]) > 5

    def test_a_policy_without_a_version_keeps_being_read_as_it_was(self) -> None:
        assert "Version" not in setting_of(BucketPolicy, EVERYTHING).merged({"Statement": [FOREIGN]})

    def test_the_same_denial_in_other_words_will_do(self, subject: Subject, front: Front) -> None:
        policy = {"Version": "2012-10-17", "Statement": [tls_denial(subject.name)]}
        subject.put_policy(policy)
        subject.command(BucketPosture(), apply=True)
        assert subject.marks()["tls_only"] == "ok"
        assert subject.policy() == policy
        assert not any("policy" in call.query for call in front.calls if call.writes)

    def test_the_same_denial_is_not_added_when_something_else_is(self) -> None:
        setting = setting_of(BucketPolicy, BucketPosture(readers=(ANN,)))
        merged = setting.merged({"Statement": [tls_denial("b")]})
        assert sids(merged) == ["InsecureTransport", "EtlRead4a39f07b", "EtlList4a39f07b"]

    @pytest.mark.parametrize(
        "change",
        [
            {"Resource": "arn:aws:s3:::other-bucket/*"},
            {"Action": "s3:GetObject"},
            {"Effect": "Allow"},
            {"Principal": {"AWS": [ANN]}},
            {"Condition": {"Bool": {"aws:SecureTransport": "true"}}},
            {"Condition": {"Bool": {"aws:SecureTransport": "false", "aws:ViaAWSService": "false"}}},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_narrower_denial_will_not_do(self, change: dict[str, Any]) -> None:
        setting = setting_of(BucketPolicy, BucketPosture())
        theirs = tls_denial("b", **change)
        assert [line.ok for line in setting.compare({"Statement": [theirs]})] == [False]
        merged = setting.merged({"Statement": [theirs]})
        assert sids(merged) == ["InsecureTransport", "EtlTlsOnly"]
        assert merged["Statement"][0] == theirs

    def test_our_own_statement_is_mended(self) -> None:
        weak = tls_denial("b", Sid="EtlTlsOnly", Action="s3:GetObject")
        merged = setting_of(BucketPolicy, BucketPosture()).merged({"Statement": [weak, FOREIGN]})
        assert sids(merged) == [FOREIGN["Sid"], "EtlTlsOnly"]
        assert merged["Statement"][1]["Action"] == "s3:*"

    def test_denials_stay_when_the_wish_is_gone(self, subject: Subject) -> None:
        subject.command(EVERYTHING, apply=True)
        before = subject.policy()["Statement"]
        assert subject.command(BucketPosture(tls_only=False), apply=True) == 0
        assert subject.policy()["Statement"] == [statement for statement in before if statement["Effect"] == "Deny"]

    def test_a_weaker_wish_leaves_the_stricter_denial(self) -> None:
        strict = BucketPosture(encryption="aws:kms:dsse", deny_other_encryption=True)
        document = setting_of(BucketPolicy, strict).merged({})
        weaker = strict.model_copy(update={"encryption": "aws:kms"})
        assert "EtlOnlyDsse" in sids(setting_of(BucketPolicy, weaker).merged(document))

    def test_a_new_key_replaces_the_old_one(self) -> None:
        document = setting_of(BucketPolicy, EVERYTHING).merged({})
        moved = setting_of(BucketPolicy, EVERYTHING.model_copy(update={"kms_key_id": OTHER_KEY}))
        assert not all(line.ok for line in moved.compare(document))
        assert KEY not in json.dumps(moved.merged(document))


class TestReaders:
    def test_they_may_read_the_published_object_only(self) -> None:
        setting = setting_of(BucketPolicy, SILENT.model_copy(update={"readers": (BEN, ANN)}))
        read, names = setting.merged({})["Statement"]
        assert read["Principal"] == names["Principal"] == {"AWS": [ANN, BEN]}
        assert (read["Effect"], read["Action"]) == ("Allow", "s3:GetObject")
        assert read["Resource"] == ["arn:aws:s3:::b/lego/sets.parquet"]
        assert (names["Effect"], names["Action"]) == ("Allow", "s3:ListBucket")
        assert names["Condition"] == {"StringLike": {"s3:prefix": "lego/sets.parquet*"}}

    def test_of_a_dataset_they_read_what_its_manifest_names(self) -> None:
        read, _ = setting_of(BucketPolicy, BucketPosture(tls_only=False, readers=(ANN,)), "sales/").merged({})[
            "Statement"
        ]
        assert read["Resource"] == [
            "arn:aws:s3:::b/sales/_current.json",
            "arn:aws:s3:::b/sales/data/*",
            "arn:aws:s3:::b/sales/_manifests/*",
        ]

    def test_one_who_is_no_longer_named_is_shown_and_removed(self, subject: Subject) -> None:
        subject.command(BucketPosture(readers=(ANN, BEN)), apply=True)
        assert subject.command(BucketPosture(readers=(ANN,))) == AccessError.exit_code
        assert subject.line("readers") == f"FAIL  readers                {ANN}  {ANN}, {BEN}"
        assert subject.command(BucketPosture(readers=(ANN,)), apply=True) == 0
        assert BEN not in subject.policy_text()

    def test_with_the_last_statement_goes_the_policy(self, subject: Subject) -> None:
        subject.command(SILENT.model_copy(update={"readers": (ANN,)}), apply=True)
        assert subject.command(SILENT, apply=True) == 0
        assert subject.marks()["readers"] == "ok"
        with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
            subject.policy()

    def test_a_grant_of_others_is_theirs(self) -> None:
        theirs = {"Sid": "x", "Effect": "Allow", "Principal": {"AWS": BEN}, "Action": "s3:*", "Resource": "*"}
        granting = setting_of(BucketPolicy, SILENT.model_copy(update={"readers": (ANN,)}))
        merged = granting.merged({"Statement": [theirs]})
        assert merged["Statement"][0] == theirs
        silent = setting_of(BucketPolicy, SILENT)
        assert silent.merged(merged)["Statement"] == [theirs]
        assert silent.compare({"Statement": [theirs]}) == []

    def test_a_grant_under_our_name_for_something_else(self) -> None:
        setting = setting_of(BucketPolicy, SILENT.model_copy(update={"readers": (ANN,)}))
        document = setting.merged({})
        document["Statement"][0]["Resource"] = "arn:aws:s3:::b/*"
        assert [(line.actual, line.ok) for line in setting.compare(document)] == [(f"{ANN}, for something else", False)]

    def test_wildcards_in_a_key_mean_themselves(self) -> None:
        grants = setting_of(BucketPolicy, BucketPosture(readers=(ANN,)), "100%*?$.csv").merged({})
        assert "arn:aws:s3:::b/100%${*}${?}${$}.csv" in json.dumps(grants)


def rule(rule_id: str, prefix: str = "", **actions: Any) -> dict[str, Any]:
    return {"ID": rule_id, "Status": "Enabled", "Filter": {"Prefix": prefix}, **actions}


def aborts(days: int) -> dict[str, Any]:
    return {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}}


def expires(days: int, **more: int) -> dict[str, Any]:
    return {"NoncurrentVersionExpiration": {"NoncurrentDays": days, **more}}


class TestLifecyclesOfOthers:
    def test_their_rules_stay(self, subject: Subject) -> None:
        theirs = subject.put_rules(
            rule("a", "logs/", Expiration={"Days": 3}),
            rule("b", Transitions=[{"Days": 30, "StorageClass": "GLACIER"}], **expires(400)),
            {**rule("c", **aborts(1)), "Filter": {"And": {"Prefix": "lego/", "Tags": [{"Key": "k", "Value": "v"}]}}},
            {**rule("d", **aborts(1)), "Status": "Disabled"},
        )
        assert subject.command(EVERYTHING, apply=True) == 0
        assert subject.rules()[:4] == theirs
        assert [found["ID"] for found in subject.rules()[4:]] == [
            "etl-abort-uploads-4a39f07b",
            "etl-expire-versions-4a39f07b",
        ]

    @pytest.mark.parametrize("prefix", ["", "le", "lego/", "lego/sets.parquet"])
    @pytest.mark.parametrize(("days", "said"), [(1, "after 1 day"), (2, "after 2 days")])
    def test_a_rule_that_aborts_soon_enough_will_do(self, prefix: str, days: int, said: str) -> None:
        lifecycle = setting_of(Lifecycle, BucketPosture())
        document = {"Rules": [rule("theirs", prefix, **aborts(days))]}
        assert [(line.actual, line.ok) for line in lifecycle.compare(document)] == [
            (f"{said}, by the rule 'theirs'", True)
        ]
        assert lifecycle.merged(document) == document

    @pytest.mark.parametrize(
        "theirs", [rule("late", **aborts(3)), rule("elsewhere", "sales/", **aborts(1))], ids=lambda rule: rule["ID"]
    )
    def test_a_rule_that_does_not_reach_gets_ours_beside_it(self, theirs: Any) -> None:
        merged = setting_of(Lifecycle, BucketPosture()).merged({"Rules": [theirs]})
        assert merged["Rules"] == [theirs, rule("etl-abort-uploads-4a39f07b", "lego/sets.parquet", **aborts(2))]

    @pytest.mark.parametrize(("found", "wanted", "becomes"), [(1, 5, 1), (5, 3, 3), (3, 3, 3)])
    def test_our_own_rule_becomes_stricter_only(self, found: int, wanted: int, becomes: int) -> None:
        document = setting_of(Lifecycle, BucketPosture(abort_incomplete_days=found)).merged({})
        merged = setting_of(Lifecycle, BucketPosture(abort_incomplete_days=wanted)).merged(document)
        assert [found["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for found in merged["Rules"]] == [
            becomes
        ]

    @pytest.mark.parametrize(("first", "then"), [(30, 60), (60, 30)])
    def test_our_expiry_follows_the_file(self, first: int, then: int) -> None:
        document = setting_of(Lifecycle, SILENT.model_copy(update={"expire_noncurrent_days": first})).merged({})
        merged = setting_of(Lifecycle, SILENT.model_copy(update={"expire_noncurrent_days": then})).merged(document)
        assert [found["NoncurrentVersionExpiration"] for found in merged["Rules"]] == [{"NoncurrentDays": then}]

    def test_what_was_added_to_a_rule_of_ours_does_not_count(self) -> None:
        lifecycle = setting_of(Lifecycle, BucketPosture())
        document = {"Rules": [rule("etl-expire-versions-4a39f07b", **aborts(1), **expires(30))]}
        assert [line.ok for line in lifecycle.compare(document)] == [False, False]
        assert [found["ID"] for found in lifecycle.merged(document)["Rules"]] == ["etl-abort-uploads-4a39f07b"]

    def test_an_expiry_that_is_no_longer_wanted_ends(self, subject: Subject) -> None:
        posture = SILENT.model_copy(update={"expire_noncurrent_days": 30})
        assert subject.command(posture, apply=True) == 0
        assert subject.command(SILENT) == AccessError.exit_code
        assert subject.command(SILENT, apply=True) == 0
        with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
            subject.rules()

    def test_history_that_others_cut_short_is_not_ours_to_give(self, subject: Subject, front: Front) -> None:
        subject.put_rules(rule("theirs", **expires(7)))
        for _ in range(2):
            front.calls.clear()
            assert subject.command(BucketPosture(expire_noncurrent_days=30), apply=True) == AccessError.exit_code
        assert subject.line("expire_noncurrent_days").endswith("after 7 days, by the rule 'theirs'")
        assert [found["ID"] for found in subject.rules()][:1] == ["theirs"]
        assert not any(call.writes for call in front.calls)

    def test_a_rule_that_keeps_some_versions_does_not_count(self) -> None:
        lifecycle = setting_of(Lifecycle, BucketPosture(expire_noncurrent_days=30))
        document = {"Rules": [rule("theirs", **expires(30, NewerNoncurrentVersions=5))]}
        assert [line.ok for line in lifecycle.compare(document)] == [False, False]
        assert len(lifecycle.merged(document)["Rules"]) == 3

    def test_rules_in_the_old_form_get_ours_in_the_old_form(self, subject: Subject) -> None:
        """S3 refuses a mixture: "Filter element can only be used in Lifecycle V2"."""
        old = {"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 3}}
        before = subject.put_rules(old)
        assert subject.command(BucketPosture(), apply=True) == 0
        assert subject.rules()[:1] == before
        assert subject.rules()[1]["Prefix"] == "lego/sets.parquet"
        assert subject.command(BucketPosture()) == 0

    def test_the_setting_beside_the_rules_is_kept(self, subject: Subject, front: Front) -> None:
        option = {"TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
        lifecycle = Lifecycle(Place(subject.name, "a.csv", "us-east-1"), BucketPosture())
        lifecycle.write(make_client(), lifecycle.merged({"Rules": [], **option}))
        headers = {name.lower(): value for name, value in front.calls[-1].headers.items()}
        assert headers["x-amz-transition-default-minimum-object-size"] == "varies_by_storage_class"


STATEMENTS = st.lists(
    st.fixed_dictionaries(
        {
            "Sid": st.sampled_from(
                ["Theirs", "EtlTlsOnly", "EtlOnlyKms", "EtlOnlyDsse", "EtlRead4a39f07b", "EtlReadx"]
            ),
            "Effect": st.sampled_from(["Allow", "Deny"]),
            "Principal": st.sampled_from(["*", {"AWS": "*"}, {"AWS": [ANN]}, {"Service": "logs"}]),
            "Action": st.sampled_from(["s3:*", ["s3:PutObject"], ["s3:GetObject", "s3:PutObject"]]),
            "Resource": st.sampled_from(["arn:aws:s3:::b/*", ["arn:aws:s3:::b", "arn:aws:s3:::b/*"]]),
        },
        optional={"Condition": st.just({"Bool": {"aws:SecureTransport": "false"}})},
    ),
    max_size=6,
)
RULES = st.lists(
    st.builds(
        rule,
        st.sampled_from(["theirs", "others", "etl-abort-uploads-4a39f07b", "etl-expire-versions-4a39f07b"]),
        st.sampled_from(["", "lego/", "sales/"]),
        AbortIncompleteMultipartUpload=st.builds(dict, DaysAfterInitiation=st.integers(1, 4)),
        NoncurrentVersionExpiration=st.builds(dict, NoncurrentDays=st.just(30)),
    ),
    max_size=5,
    unique_by=lambda rule: rule["ID"],
)
POSTURES = st.builds(
    BucketPosture,
    tls_only=st.booleans(),
    encryption=st.sampled_from(["any", "AES256", "aws:kms", "aws:kms:dsse"]),
    deny_other_encryption=st.booleans(),
    deny_unconditional_writes=st.booleans(),
    readers=st.sets(st.sampled_from([ANN, BEN])).map(tuple),
    abort_incomplete_days=st.integers(0, 3),
    expire_noncurrent_days=st.sampled_from([0, 30]),
)


class TestWhateverIsThere:
    """For any document: mending fulfils the wishes, once is enough, and what is not ours stays in its order."""

    @given(STATEMENTS, POSTURES)
    def test_policies(self, statements: list[Any], posture: BucketPosture) -> None:
        document: Document = {"Version": "2012-10-17", "Statement": statements}
        merged = self.check(setting_of(BucketPolicy, posture), document)
        theirs = [statement for statement in statements if statement["Sid"] in ("Theirs", "EtlReadx")]
        assert [statement for statement in merged["Statement"] if statement in theirs] == theirs

    @given(RULES, POSTURES)
    def test_lifecycles(self, rules: list[Any], posture: BucketPosture) -> None:
        merged = self.check(setting_of(Lifecycle, posture), {"Rules": rules})
        theirs = [rule for rule in rules if not rule["ID"].startswith("etl-")]
        assert [rule for rule in merged["Rules"] if rule in theirs] == theirs

    @given(
        st.sampled_from(["AES256", "aws:kms", "aws:kms:dsse"]),
        st.sampled_from([None, KEY, OTHER_KEY]),
        st.booleans(),
        POSTURES,
    )
    def test_encryption(self, algorithm: str, key: str | None, bucket_key: bool, posture: BucketPosture) -> None:
        default = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
        found = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key}
        if posture.encryption == "any":
            assert setting_of(DefaultEncryption, posture).compare(found) == []
            return
        merged = self.check(setting_of(DefaultEncryption, posture), found)
        strength = ["AES256", "aws:kms", "aws:kms:dsse"]
        became = merged["ApplyServerSideEncryptionByDefault"]
        assert strength.index(became["SSEAlgorithm"]) >= strength.index(algorithm)
        assert became.get("KMSMasterKeyID") == key

    @staticmethod
    def check(setting: Setting, document: Document) -> Document:
        before = json.dumps(document)
        merged = setting.merged(document)
        assert json.dumps(document) == before
        assert all(line.ok for line in setting.compare(merged))
        assert setting.merged(merged) == merged
        return merged


class TestStoresThatKnowLess:
    @pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1"])
    def test_amazon_knows_every_call(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, region: str) -> None:
        """So that a 405, which there means another account's credentials, is no excuse."""
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        assert is_amazon(boto3.client("s3", region_name=region))
        for url in ("http://127.0.0.1:9000", "https://amazonaws.com.example.org", "https://minio.notamazonaws.com"):
            assert not is_amazon(boto3.client("s3", region_name=region, endpoint_url=url))

    def test_a_default_that_the_store_cannot_fulfil_does_not_count(self, subject: Subject, front: Front) -> None:
        front.refuse("GET", "publicAccessBlock", 501, "NotImplemented")
        front.refuse("GET", "ownershipControls", 405, "MethodNotAllowed")
        front.refuse("GET", "lifecycle", 400, body="<html>what?")
        assert subject.command(BucketPosture(), apply=True) == 0
        assert [wish for wish, mark in subject.marks().items() if mark == "n/a"] == [
            "block_public_access",
            "owner_enforced",
            "abort_incomplete_days",
        ]
        assert subject.line("owner_enforced").endswith("not supported by this store")
        assert shortfalls(subject.loader, BucketPosture()) == []

    def test_a_wish_in_the_file_counts(self, subject: Subject, front: Front) -> None:
        front.refuse("GET", "publicAccessBlock", 501, "NotImplemented")
        posture = BucketPosture(block_public_access=True)
        assert subject.command(posture, apply=True) == AccessError.exit_code
        assert subject.marks()["block_public_access"] == "FAIL"
        assert not any("publicAccessBlock" in call.query for call in front.calls if call.writes)
        lacking = shortfalls(subject.loader, posture)
        assert len(lacking) == 1
        assert "block_public_access" in lacking[0]
        assert "not supported by this store" in lacking[0]

    def test_a_store_that_can_be_asked_and_not_told(self, subject: Subject, front: Front) -> None:
        front.refuse("PUT", "encryption", 501, "NotImplemented")
        assert subject.command(BucketPosture(), apply=True) == AccessError.exit_code
        assert subject.line("encryption").endswith("not supported by this store")
        assert subject.client.get_bucket_versioning(Bucket=subject.name)["Status"] == "Enabled"

    def test_a_store_that_answers_something_else(self, subject: Subject, front: Front) -> None:
        """Some take an unknown question for a listing."""
        listing = "<ListBucketResult><Name>x</Name></ListBucketResult>"
        for name in ("versioning", "encryption", "publicAccessBlock", "ownershipControls", "policy", "lifecycle"):
            front.refuse("GET", name, 200, body=listing)
        assert subject.command(BucketPosture(tls_only=True)) == AccessError.exit_code
        assert subject.line("tls_only").endswith("not supported by this store")
        assert subject.marks()["encryption"] == "FAIL"

    def test_a_store_that_forgets_is_found_out(self, subject: Subject, front: Front) -> None:
        front.refuse("PUT", "versioning", 200, body="")
        assert subject.command(BucketPosture(), apply=True) == AccessError.exit_code
        assert subject.line("versioning").endswith("off")


class TestPermissions:
    def test_what_may_not_be_seen_is_a_failure_and_stays_as_it_is(self, subject: Subject, front: Front) -> None:
        front.refuse("GET", "policy", 403, "AccessDenied")
        assert subject.command(BucketPosture(), apply=True) == AccessError.exit_code
        assert subject.line("tls_only").endswith("may not look; that takes s3:GetBucketPolicy")
        assert not any("policy" in call.query for call in front.calls if call.writes)
        assert subject.marks()["versioning"] == "ok"

    def test_a_change_that_is_refused_names_the_permission(self, subject: Subject, front: Front) -> None:
        front.refuse("PUT", "ownershipControls", 403, "AccessDenied")
        assert subject.command(BucketPosture(), apply=True) == AccessError.exit_code
        assert f"s3:PutBucketOwnershipControls on s3://{subject.name}" in subject.line("owner_enforced")
        assert [mark for mark in subject.marks().values() if mark == "FAIL"] == ["FAIL"]

    def test_what_passes_by_itself_is_worth_another_try(self, subject: Subject, front: Front) -> None:
        front.refuse("GET", "encryption", 403, "RequestTimeTooSkewed")
        assert subject.command(BucketPosture()) == RetryLater.exit_code
        assert "clock" in subject.line("encryption")

    def test_a_change_that_may_work_later(self, subject: Subject, front: Front) -> None:
        front.refuse("PUT", "versioning", 403, "RequestTimeTooSkewed")
        assert subject.command(BucketPosture(), apply=True) == RetryLater.exit_code


class TestShortfalls:
    def test_a_bucket_as_it_should_be_lacks_nothing(self, subject: Subject) -> None:
        subject.command(EVERYTHING, apply=True)
        assert shortfalls(subject.loader, EVERYTHING.model_copy(update={"tls_only": False})) == []

    def test_what_is_lacking_is_said_in_a_sentence_each(self, subject: Subject) -> None:
        lacking = shortfalls(subject.loader, BucketPosture())
        assert lacking[0] == f"s3://{subject.name}: versioning: wanted Enabled, found off"
        assert len(lacking) == 5

    def test_it_costs_one_request_for_each_setting(self, subject: Subject, front: Front) -> None:
        shortfalls(subject.loader, EVERYTHING)
        assert len(front.calls) == len(SETTINGS)

    def test_not_being_allowed_to_look_is_one_shortfall(self, subject: Subject, front: Front) -> None:
        subject.command(BucketPosture(), apply=True)
        for name in ("policy", "versioning", "encryption"):
            front.refuse("GET", name, 403, "AccessDenied")
        assert shortfalls(subject.loader, BucketPosture()) == [
            f"s3://{subject.name}: cannot tell about versioning, encryption: "
            "looking takes s3:GetBucketVersioning, s3:GetEncryptionConfiguration"
        ]

    def test_a_store_in_trouble_does_not_stop_it(self, subject: Subject, front: Front) -> None:
        front.refuse("GET", "versioning", 500, "InternalError")
        lacking = shortfalls(subject.loader, BucketPosture(encryption="any"))
        assert any("cannot tell about versioning" in line and "InternalError" in line for line in lacking)

    def test_nobody_there(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert all("cannot tell about" in line for line in shortfalls(subject.loader, BucketPosture()))


class TestWishes:
    def test_what_a_person_gets_who_says_nothing(self) -> None:
        assert BucketPosture().model_dump() == {
            "versioning": True,
            "encryption": "AES256",
            "kms_key_id": None,
            "bucket_key": None,
            "block_public_access": True,
            "owner_enforced": True,
            "tls_only": True,
            "deny_other_encryption": False,
            "deny_unconditional_writes": False,
            "readers": (),
            "abort_incomplete_days": 2,
            "expire_noncurrent_days": 0,
            "require_posture": False,
        }

    @pytest.mark.parametrize(
        "options",
        [
            {"readers": ["*"]},
            {"readers": ["arn:aws:iam::111122223333:role/*"]},
            {"readers": ["111122223333"]},
            {"readers": ["arn:aws:s3:::bucket"]},
            {"encryption": "aws:kms", "kms_key_id": "arn:aws:kms:us-east-1:123456789012:alias/mine"},
            {"encryption": "aws:kms", "kms_key_id": "1234abcd"},
            {"kms_key_id": KEY},
            {"bucket_key": True},
            {"encryption": "aws:kms:dsse", "bucket_key": True},
            {"encryption": "AES128"},
            {"abort_incomplete_days": -1},
            {"versionning": True},
        ],
        ids=str,
    )
    def test_mistakes_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            BucketPosture(**options)

    @pytest.mark.parametrize(
        ("load", "table", "said"),
        [
            ({"acl": "private"}, {"owner_enforced": True}, "owner_enforced"),
            ({"acl": "private"}, {}, None),
            ({"encryption": "AES256"}, {"encryption": "aws:kms", "deny_other_encryption": True}, "AES256"),
            ({"encryption": "aws:kms:dsse"}, {"encryption": "aws:kms", "deny_other_encryption": True}, None),
            ({"encryption": "aws:kms"}, {"encryption": "aws:kms:dsse", "deny_other_encryption": True}, "aws:kms"),
            ({}, {"encryption": "aws:kms", "kms_key_id": KEY, "deny_other_encryption": True}, None),
            (
                {"encryption": "aws:kms"},
                {"encryption": "aws:kms", "kms_key_id": KEY, "deny_other_encryption": True},
                "kms_key_id",
            ),
            (
                {"encryption": "aws:kms", "kms_key_id": KEY},
                {"encryption": "aws:kms", "kms_key_id": KEY, "deny_other_encryption": True},
                None,
            ),
            ({"encryption": "AES256"}, {"encryption": "aws:kms"}, None),
        ],
    )
    def test_tables_that_contradict_each_other(
        self, load: dict[str, Any], table: dict[str, Any], said: str | None
    ) -> None:
        found = BucketPosture(**table).contradictions(S3Loader(bucket="box", key="a.csv", **load))
        assert [said in each for each in found if said] == [True] * (said is not None)
        assert bool(found) == bool(said)

    def test_a_pipeline_that_sets_acls_needs_them(self) -> None:
        place = Place("b", "a.csv", "us-east-1", uses_acls=True)
        assert [line.ok for line in Ownership(place, BucketPosture()).compare({})] == [None]
        assert [line.ok for line in Ownership(place, BucketPosture(owner_enforced=True)).compare({})] == [False]

    @pytest.mark.parametrize("principal", ["root", "user/path/to/ben", "role/a+b=c,d.e@f-g", "assumed-role/a/b"])
    @pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
    def test_whoever_has_an_arn_can_be_a_reader(self, principal: str, partition: str) -> None:
        assert BucketPosture(readers=(f"arn:{partition}:iam::111122223333:{principal}",)).readers
