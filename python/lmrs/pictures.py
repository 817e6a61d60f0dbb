"""Pictures for reports: matplotlib's figures, without its global state, written whole or not at all."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from lmrs.errors import InputError
from lmrs.files import replace_file


def figure(width: float, height: float) -> Any:
    """An empty ``matplotlib.figure.Figure`` of so many inches. Raises InputError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("drawing needs matplotlib: pip install 'lmrs[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def save(drawn: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, SVG or PDF, by the name. Raises InputError for another kind, FileError."""
    kind = Path(path).suffix.lower()
    if kind not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: a picture is .png, .svg or .pdf")
    buffer = BytesIO()
    drawn.savefig(buffer, format=kind[1:])
    replace_file(Path(path), buffer.getvalue())
