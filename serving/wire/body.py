"""Reading a request's body: its media type, its encoding and its size are checked before a byte is kept."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request

from serving.errors import Malformed, TooLarge, WrongMediaType

JSON = "application/json"


def media_type(request: Request, accepted: Collection[str]) -> str:
    """The media type of the body; the empty one, where `accepted` holds it, is a body that names none.

    Raises:
        WrongMediaType: another one, another charset than UTF-8, or a compressed body.
    """
    media, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    media = media.strip()
    if media not in accepted or ("charset" in parameters and "utf-8" not in parameters):
        names = ", ".join(sorted(filter(None, accepted)))
        expected = f"{names} in UTF-8" if names == JSON else names
        raise WrongMediaType(
            "the body must be JSON" if names == JSON else "the body is of a type that is not read here",
            where="Content-Type",
            expected=expected,
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongMediaType("compressed bodies are not read", where="Content-Encoding", expected="identity")
    return media


async def read_body(request: Request, most: int) -> bytes:
    """The body, of at most `most` bytes, whether it says its length or not.

    Raises:
        TooLarge: it is longer.
        Malformed: it is empty.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 15 or int(declared) > most):
        raise _too_large(most)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_large(most)
    if not body:
        raise Malformed("the body is empty", expected="see GET /openapi.json")
    return bytes(body)


def _too_large(most: int) -> TooLarge:
    return TooLarge("the body is too large", where="body", expected=f"at most {most} bytes", hint="send fewer rows")
