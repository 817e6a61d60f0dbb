"""What is answered when a request cannot be: OpenAI's form of an error, and one status for each kind."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmrs.errors import Error, InternalError


class Refusal(Exception):
    """A request that is not answered; ``field`` is the part of it that is to blame."""

    def __init__(
        self, message: str, *, status: int = 400, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.field, self.headers = message, status, field, headers


def busy(seconds: int) -> Refusal:
    """There is too much to do already."""
    return Refusal("too many requests at once", status=429, headers={"Retry-After": str(seconds)})


_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def body(message: str, *, status: int, field: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = "server_error" if status >= 500 else _KINDS.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": field, "code": status}}


def refused(_: Request, refusal: Exception) -> Response:
    """The answer to a Refusal."""
    assert isinstance(refusal, Refusal)
    said = body(refusal.message, status=refusal.status, field=refusal.field)
    return JSONResponse(said, status_code=refusal.status, headers=refusal.headers)


def wrong(_: Request, error: Exception) -> Response:
    """The answer to an error of lmrs: the request's fault, unless it is lmrs's."""
    assert isinstance(error, Error)
    status = 500 if isinstance(error, InternalError) else 400
    return JSONResponse(body(str(error), status=status), status_code=status)
