"""What Amazon's S3 verifies in each call and moto does not: checksums; and what a run promises to say in each."""

from __future__ import annotations

import base64
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.s3_front import Call


def broken_rules(calls: Iterable[Call], *, owner: str, encryption: str) -> list[str]:
    """What is wrong with the calls of a run to which these options were given; empty if all is well."""
    parts: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
    wrong: list[str] = []
    for call in calls:
        headers = {name.lower(): value for name, value in call.headers.items()}
        if headers.get("x-amz-expected-bucket-owner") != owner and not _is_about_the_region(call):
            wrong.append(f"{call}: does not ask for the owner")
        if call.writes and _makes_an_object(call) and headers.get("x-amz-server-side-encryption") != encryption:
            wrong.append(f"{call}: does not ask for encryption")
        if call.method == "PUT":
            parts[call.query.get("uploadId", "")][int(call.query.get("partNumber", 0))] = call.body
            if headers.get("x-amz-checksum-crc32") != crc32(call.body):
                wrong.append(f"{call}: the checksum is not that of the body")
        elif call.method == "POST" and "uploads" in call.query:
            asked = headers.get("x-amz-checksum-algorithm"), headers.get("x-amz-checksum-type")
            if asked != ("CRC32", "FULL_OBJECT"):
                wrong.append(f"{call}: asks for {asked}")
        elif call.method == "POST":
            wrong += [f"{call}: {what}" for what in _wrong_completion(call, headers, parts[call.query["uploadId"]])]
    return wrong


def _is_about_the_region(call: Call) -> bool:
    """Botocore's own question, after a HEAD that was refused without a word."""
    return (call.method, call.key) == ("HEAD", "")


def _makes_an_object(call: Call) -> bool:
    return (call.method == "PUT" and "uploadId" not in call.query) or (
        call.method == "POST" and "uploads" in call.query
    )


def _wrong_completion(call: Call, headers: dict[str, str], parts: dict[int, bytes]) -> Iterator[str]:
    bodies = [parts[number] for number in sorted(parts)]
    whole = b"".join(bodies)
    if headers.get("x-amz-checksum-crc32") != crc32(whole) or headers.get("x-amz-checksum-type") != "FULL_OBJECT":
        yield "the checksum is not that of the whole object"
    if headers.get("x-amz-mp-object-size") != str(len(whole)):
        yield "the size is not that of the whole object"
    if re.findall(r"<ChecksumCRC32>(.+?)</ChecksumCRC32>", call.body.decode()) != [crc32(body) for body in bodies]:
        yield "the checksums are not those of the parts"


def crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
