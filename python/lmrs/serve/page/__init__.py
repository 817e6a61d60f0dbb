"""The page at `/`: a few files as they are, nothing from elsewhere."""

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

_KINDS = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
PATHS = frozenset({"/", *(f"/page/{name}" for name in _KINDS)})
"""Where it lies. It says nothing of the model, so no key is asked for; what it asks the server for needs one."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def file(request: Request) -> Response:
    """The file that is asked for, `index.html` at the root."""
    name = request.path_params.get("name", "index.html")
    if name not in _KINDS:
        return Response(status_code=404)
    content = resources.files(__package__).joinpath(name).read_bytes()
    return Response(content, media_type=f"{_KINDS[name]}; charset=utf-8", headers=_HEADERS)
