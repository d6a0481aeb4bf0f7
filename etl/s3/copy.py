"""Makes an old version of an object its newest one again, by a copy within S3."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from etl.s3.client import LostRace, UploadGone
from etl.s3.store import Store
from etl.s3.stored import Stored

_LARGEST_COPY = 5 * 1024**3  # in one request; more is copied in parts
_COPIED_PART = 1024**3
_PART_FACTS = ("ETag", "ChecksumCRC32")


def copy_version(store: Store, version: Stored, condition: Mapping[str, str], **options: Any) -> None:
    """Copy content and metadata of ``version`` onto its key, if ``condition`` holds; ``options`` as for ``Store.put``.

    Raises LostRace if somebody else was first.
    """
    owner = {"ExpectedSourceBucketOwner": store.owner} if store.owner else {}
    place = {"Bucket": store.bucket, "Key": version.key, "VersionId": version.version_id}
    copy = _copy_whole if version.bytes <= _LARGEST_COPY else _copy_in_parts
    try:
        copy(store, version, {"CopySource": place, **owner}, condition, **options)
    except (LostRace, UploadGone):
        run_id = version.metadata.get("etl-run-id")
        now = store.head(version.key)
        if now is None or now.version_id == version.version_id or now.metadata.get("etl-run-id") != run_id:
            raise  # else it was this very copy, and its reply was lost


def _copy_whole(
    store: Store, version: Stored, source: dict[str, Any], condition: Mapping[str, str], **options: Any
) -> None:
    # Tags are set anew: taking over those of the version would take one more permission.
    options = {**store.writing, **options, **source, "MetadataDirective": "COPY", "TaggingDirective": "REPLACE"}
    copy = partial(store.client.copy_object, ChecksumAlgorithm="CRC32")
    store.conditional(condition, "s3:PutObject", version.key, copy, Key=version.key, **options)


def _copy_in_parts(
    store: Store, version: Stored, source: dict[str, Any], condition: Mapping[str, str], **options: Any
) -> None:
    key, told = version.key, {"Metadata": dict(version.metadata), "ContentType": version.content_type}
    upload_id = store.start_upload(key, **told, **options)
    try:
        parts = []
        for number, start in enumerate(range(0, version.bytes, _COPIED_PART), 1):
            stretch = f"bytes={start}-{min(start + _COPIED_PART, version.bytes) - 1}"
            part = {"UploadId": upload_id, "PartNumber": number, "CopySourceRange": stretch}
            copy = store.client.upload_part_copy
            reply: Any = store.call("s3:GetObjectVersion", key, copy, Key=key, **part, **source)
            result = reply["CopyPartResult"]
            parts.append({"PartNumber": number} | {name: result[name] for name in _PART_FACTS if name in result})
        store.complete_upload(key, upload_id, parts, version.bytes, version.crc32, condition)
    except BaseException:
        store.abort_upload(key, upload_id)
        raise
