"""An engine over HTTP, as OpenAI's clients expect one: :func:`create_app` is a Starlette app to run or to mount.

Needs the extra ``lmrs[serve]``.
"""

from lmrs.serve.app import create_app
from lmrs.serve.limits import Limits

__all__ = ["Limits", "create_app"]
