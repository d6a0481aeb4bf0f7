"""Who asks an API: a token, a user, a key, or a client that has tokens made for it (OAuth2)."""

from __future__ import annotations

import base64
import json
import math
import time
from contextlib import closing
from typing import Annotated, Literal, NamedTuple, Self, TypeAlias
from urllib.parse import quote_plus, urlencode

from pydantic import Field, SecretStr, model_validator

from etl.errors import AccessError, SourceError
from etl.http.body import read_body
from etl.http.request import Patience, RefusedError, TransientError, WebSession, ask, sendable
from etl.options import Options
from etl.redact import redact

_MAX_TOKEN_BYTES = 1 << 20
_LONGEST_LEEWAY_S = 60.0


class _Auth(Options):
    """What is sent with every request."""

    def headers_sent(self) -> dict[str, SecretStr]:
        return {}

    def params_sent(self) -> dict[str, SecretStr]:
        return {}

    @model_validator(mode="after")
    def _sendable(self) -> Self:
        sendable(self.headers_sent())
        return self


class BearerAuth(_Auth):
    """A token, in the header Authorization."""

    type: Literal["bearer"]
    token: SecretStr = Field(description="The token.")

    def headers_sent(self) -> dict[str, SecretStr]:
        return _bearer(self.token)


class BasicAuth(_Auth):
    """A user name and a password (RFC 7617)."""

    type: Literal["basic"]
    username: str = Field(pattern=r"^[^:]*$", description="Name of the user.")
    password: SecretStr = Field(description="Password of the user.")

    def headers_sent(self) -> dict[str, SecretStr]:
        return _basic(self.username, self.password.get_secret_value())


class ApiKeyAuth(_Auth):
    """A key, in a header or in the query."""

    type: Literal["api_key"]
    key: SecretStr = Field(min_length=1, description="The key.")
    header: str | None = Field(default=None, description="Header that the key is sent in, such as X-API-Key.")
    param: str | None = Field(default=None, min_length=1, description="Or the parameter of the query.")

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.header is None) == (self.param is None):
            raise ValueError("name the header or the param that the key is sent in, one of them")
        return self

    def headers_sent(self) -> dict[str, SecretStr]:
        return {self.header: self.key} if self.header is not None else {}

    def params_sent(self) -> dict[str, SecretStr]:
        return {self.param: self.key} if self.param is not None else {}


class OAuth2Auth(_Auth):
    """OAuth2 client credentials (RFC 6749, 4.4): a token is fetched, kept for this run, and renewed when it expires."""

    type: Literal["oauth2"]
    token_url: str = Field(description="Address that gives tokens.")
    client_id: str = Field(min_length=1, description="Name of the client.")
    client_secret: SecretStr = Field(min_length=1, description="Secret of the client.")
    scope: str | None = Field(default=None, description="What the token is for, as the API's manual says.")
    parameters: dict[str, SecretStr] = Field(
        default={}, description="More parameters of the request for a token, such as audience."
    )
    send_in: Literal["header", "body"] = Field(default="header", description="Where client_id and client_secret go.")


Auth: TypeAlias = Annotated[BearerAuth | BasicAuth | ApiKeyAuth | OAuth2Auth, Field(discriminator="type")]


class Signer:
    """Signs the requests of one reading."""

    def __init__(self, auth: Auth | None, session: WebSession) -> None:
        self._auth = auth
        self._session = session
        self._token: _Token | None = None

    def headers(self, patience: Patience) -> dict[str, SecretStr]:
        """The headers to send; a token that there is not yet, or not for much longer, is fetched first.

        Raises as ``ask`` does, and AccessError if the client is refused.
        """
        if not isinstance(self._auth, OAuth2Auth):
            return self._auth.headers_sent() if self._auth else {}
        if self._token is None or time.monotonic() >= self._token.stale_at:
            self._token = _fetch_token(self._auth, self._session, patience)
        return _bearer(self._token.text)

    def params(self) -> dict[str, str]:
        params = self._auth.params_sent() if self._auth else {}
        return {name: value.get_secret_value() for name, value in params.items()}

    def renew(self) -> bool:
        """Forget the token, as it was refused. False if asking for another makes no sense."""
        had_token, self._token = self._token is not None, None
        return had_token


class _Token(NamedTuple):
    text: SecretStr
    stale_at: float


def _fetch_token(auth: OAuth2Auth, session: WebSession, patience: Patience) -> _Token:
    own, form = _token_request(auth)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    asked = time.monotonic()
    try:
        response = ask(session, auth.token_url, patience, own, headers, urlencode(form).encode())
        with closing(response):
            body = read_body(response, auth.token_url, patience, _MAX_TOKEN_BYTES)
    except TransientError as failure:
        raise TransientError(
            f"no token from {redact(auth.token_url)}: {failure}", wait_s=failure.wait_s, throttled=failure.throttled
        ) from failure
    except (AccessError, RefusedError) as error:
        if isinstance(error, RefusedError) and error.status != 400:
            raise
        raise AccessError(
            f"{redact(auth.token_url)} refuses the client; check client_id, client_secret, scope and send_in"
        ) from error
    return _token_in(body, asked, auth.token_url)


def _token_request(auth: OAuth2Auth) -> tuple[dict[str, SecretStr], dict[str, str]]:
    """The headers and the fields of the form; a client in a header is encoded as RFC 6749, 2.3.1 has it."""
    client = {"client_id": auth.client_id, "client_secret": auth.client_secret.get_secret_value()}
    form = {"grant_type": "client_credentials", **({"scope": auth.scope} if auth.scope else {})}
    form |= {name: value.get_secret_value() for name, value in auth.parameters.items()}
    accept = {"Accept": SecretStr("application/json")}
    if auth.send_in == "body":
        return accept, form | client
    return accept | _basic(*map(quote_plus, client.values())), form


def _token_in(body: bytes, asked: float, url: str) -> _Token:
    try:
        answer = json.loads(body)
        text = SecretStr(answer["access_token"])
        sendable({"Authorization": text})
        expires_in = answer.get("expires_in")
        lasts_s = math.inf if expires_in is None else float(expires_in)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # without its cause, which could show the token
        raise SourceError(f"{redact(url)}: what came is no answer with an access_token; check token_url") from None
    return _Token(text, asked + lasts_s - min(_LONGEST_LEEWAY_S, lasts_s / 10))


def _bearer(token: SecretStr) -> dict[str, SecretStr]:
    return {"Authorization": SecretStr(f"Bearer {token.get_secret_value()}")}


def _basic(username: str, password: str) -> dict[str, SecretStr]:
    encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"Authorization": SecretStr(f"Basic {encoded}")}
