"""Takes secrets out of text before a person, a log or a report sees it."""

from __future__ import annotations

import os
import re

_MASK = "***"
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE", re.IGNORECASE)
_SHORTEST_SECRET = 6

_RULES = (
    # user:password@ in any URL, and the whole query string: signatures and keys travel there
    (re.compile(r"(?<=://)(?!user:password@)[^/@\s'\"]+@"), f"{_MASK}@"),  # those are the words of our own examples
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"<>]+\?)[^\s'\"<>)]+", re.IGNORECASE), rf"\1{_MASK}"),
    # a path with a query, as urllib3 logs and quotes it
    (re.compile(r"((?:^|[\s'\"(])/[^\s?'\"]*\?)[^\s'\"<>)]+"), rf"\1{_MASK}"),
    (
        re.compile(
            r"\b((?:X-Amz-[A-Za-z-]+|AWSAccessKeyId|Signature|SignedHeaders|Credential)=)[^\s&,'\"]+", re.IGNORECASE
        ),
        rf"\1{_MASK}",
    ),
    (
        re.compile(
            r"((?:authorization|x-amz-security-token|x-api-key|cookie)['\"]?\s*[:=]\s*b?['\"]?)[^'\"\r\n]+",
            re.IGNORECASE,
        ),
        rf"\1{_MASK}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}"), rf"\1 {_MASK}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), _MASK),
    (
        re.compile(
            # not the name of an option before what is wrong with it
            r"((?:password|passwd|secret|token|api_?key|sslpassword)['\"]?\s*[=:]"
            r"(?! (?:the environment variable|missing;) )\s*['\"]?)[^\s&'\",;)]+",
            re.IGNORECASE,
        ),
        rf"\1{_MASK}",
    ),
)


def redact(text: str) -> str:
    """Mask secrets in ``text``: what looks like one, and the values of environment variables named like one."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    for secret in _environment_secrets():
        text = text.replace(secret, _MASK)
    return text


def _environment_secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)
