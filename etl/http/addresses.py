"""Which addresses may be asked: of what form a url must be, and where it may be redirected."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, ValidationInfo

from etl.errors import SourceError
from etl.redact import redact

_ZONES = ("public", "private", "loopback", "link-local")


def url_problem(url: str, *, allow_http: bool) -> str | None:
    """What is wrong with ``url`` as an address to download from, or None. Asks nobody."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{redact(url)} is not a valid url: {error}"
    if parts.scheme not in ("http", "https"):
        return f"{redact(url)} should start with https://"
    if not host:
        return f"{redact(url)} names no host"
    if parts.username is not None:
        return f"{redact(url)} holds a user name or password; send an Authorization header instead (option headers)"
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        return f"{redact(url)} can be read and changed on its way; use https://, or set allow_http = true"
    return None


def accepted(url: str, info: ValidationInfo) -> str:
    """``url``, which an option is. Raises ValueError if it will not do, by the option ``allow_http`` beside it."""
    problem = url_problem(url, allow_http=info.data.get("allow_http", False))
    if problem:
        raise ValueError(problem)
    return url


WebUrl: TypeAlias = Annotated[str, AfterValidator(accepted)]


def check_redirect(origin: str, target: str, *, allow_http: bool) -> None:
    """Refuse (SourceError) a redirect to what would not do as a url, or deeper into a network than the url itself is.

    So no public server can make this program fetch from an intranet, from this machine or from cloud metadata.
    """
    problem = url_problem(target, allow_http=allow_http)
    if problem:
        raise SourceError(f"{redact(origin)} redirects to an address that is not accepted: {problem}")
    zone = _zone(target)
    if zone > _zone(origin):
        raise SourceError(f"{redact(origin)} redirects to the {_ZONES[zone]} address {redact(target)}: refused")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself, as its name or number says."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _zone(url: str) -> int:
    """How deep inside the host of ``url`` is, as an index of _ZONES; of several addresses, the innermost."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None)
    except (OSError, UnicodeError):
        return 0  # only a proxy can reach it, or nobody
    return max(_zone_of_address(str(info[4][0])) for info in found)


def _zone_of_address(text: str) -> int:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_link_local:
        return _ZONES.index("link-local")
    if address.is_loopback or address.is_unspecified:
        return _ZONES.index("loopback")
    return _ZONES.index("public" if address.is_global else "private")
