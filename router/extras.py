"""Checks what a caller adds to the HTTP request of a hosted model: headers, query and body.

Whoever may send requests may not say on whose account they go, or where.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from router.errors import InvalidRequestError, shown
from router.request import JSONObject
from router.words import is_header

__all__ = ["CREDENTIALS", "check_extra_body", "checked_headers", "checked_query"]

#: Fields that must not come with a request: whoever may send requests may not redirect them.
CREDENTIALS = frozenset(
    {"api_key", "base_url", "organization", "project", "default_headers", "http_client"}
    | {"api_base", "azure_endpoint", "user_config"}  # some hosts are routers themselves, and go there
)
#: Parts of the names of headers and query parameters that say who asks, whom, or on whose account.
_CREDENTIAL_WORDS = (
    "authoriz",
    "authentic",
    "x-auth",
    "api-key",
    "api_key",
    "apikey",
    "token",
    "secret",
    "cookie",
    "credential",
    "password",
)
_CREDENTIAL_NAMES = frozenset(
    {"host", "key", "x-forwarded-host", "openai-organization", "openai-project", "x-goog-user-project"}
)
#: Headers that say how the message itself is sent: the transport's business.
_FRAMING = frozenset(
    {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"}
    | {"keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def checked_headers(headers: JSONObject) -> dict[str, str]:
    """The headers, checked.

    Raises:
        InvalidRequestError: if one is no header, sets credentials or a host, or frames the message.
    """
    for name, value in headers.items():
        field = f"extra_headers.{name if isinstance(name, str) else shown(name)}"
        if _is_credential(name):
            raise InvalidRequestError(
                f"{field}: no request can set credentials or a host; declare them on the model", field=field
            )
        if not isinstance(name, str) or not isinstance(value, str) or not is_header(name, value):
            raise InvalidRequestError(f"{field}: no HTTP header has such a name or value", field=field)
        if name.lower() in _FRAMING:
            raise InvalidRequestError(f"{field}: how a request is sent is not the caller's", field=field)
    return cast("dict[str, str]", dict(headers))


def checked_query(query: JSONObject) -> JSONObject:
    """The query parameters, checked.

    Raises:
        InvalidRequestError: if one sets credentials.
    """
    for name in query:
        field = f"extra_query.{name if isinstance(name, str) else shown(name)}"
        if _is_credential(name):
            raise InvalidRequestError(
                f"{field}: no request can set credentials; declare them on the model", field=field
            )
        if not isinstance(name, str):
            raise InvalidRequestError(f"{field}: a parameter's name is text", field=field)
    return query


def _is_credential(name: object) -> bool:
    word = str(name).strip().lower()
    return word in _CREDENTIAL_NAMES or any(part in word for part in _CREDENTIAL_WORDS)


def check_extra_body(body: JSONObject, known: Collection[str]) -> None:
    """Refuses what the router knows as an argument: in the body it would pass by checks, needs and prices.

    Raises:
        InvalidRequestError: for such a field, and for credentials.
    """
    for name in body:
        if name in CREDENTIALS:
            raise InvalidRequestError(
                f"extra_body.{name}: no request can set credentials or a base URL; declare them on the model",
                field=f"extra_body.{name}",
            )
        if name in known or not isinstance(name, str):
            raise InvalidRequestError(
                f"extra_body.{name}: pass it as the argument {name}=", field=f"extra_body.{name}"
            )
