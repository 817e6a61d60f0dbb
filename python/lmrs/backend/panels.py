"""Packed weights in a file, made once and used where they lie by every process that maps it.

The file is safetensors: an int32 tensor of words for each weight, on a cache line. ``__metadata__`` has ``format``
("lmrs panels"), ``version``, ``of`` (what the panels were made from), ``panels``, a JSON object that says of each
tensor how it holds which weight, and ``sha256`` of that JSON. A panel is ``[64/strip][words][strip]`` for 64 outputs,
of any machine: those with narrower vectors walk it in narrower steps, and no width changes a bit.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lmrs import _rs
from lmrs.errors import FormatError, ShapeError

FORMAT, VERSION = "lmrs panels", "1"


@dataclass(frozen=True)
class Panel:
    """How a tensor holds a weight ``[outputs, inputs]``: as ``weights`` (f32, bf16, int8, int4), in strips of outputs.

    ``origin`` are the bytes of a file that the weight was read from, if it was.
    """

    weights: str
    outputs: int
    inputs: int
    strip: int
    origin: str | None


class Panels:
    """An open file of panels. ``of`` is what they were made from; ``panels`` are by name.

    Raises MissingFileError, and FormatError for a file that is damaged, of another kind or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _rs.Checkpoint.open(path)
        self._names = {name for name, *_ in self._file.tensors}
        said = self._file.metadata
        if said.get("format") != FORMAT:
            raise FormatError(f"{path}: holds no packed weights: format is {said.get('format')!r}, expected {FORMAT!r}")
        if said.get("version") != VERSION:
            raise FormatError(f"{path}: packed weights of version {said.get('version')!r}, expected {VERSION!r}")
        written = said.get("panels", "")
        if hashlib.sha256(written.encode()).hexdigest() != said.get("sha256"):
            raise FormatError(f"{path}: the description of the packed weights is damaged: its SHA-256 is another")
        self.of = said.get("of", "")
        try:
            self.panels = {name: Panel(**fields) for name, fields in json.loads(written).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: the description of the packed weights is none: {error}") from None

    def lend(self, name: str, weight: _rs.Tensor) -> None:
        """Have products with ``weight`` use the panels ``name``. Raises FormatError if they are of another shape."""
        panel = self.panels[name]
        if list(weight.shape) != [panel.outputs, panel.inputs]:
            shape = [panel.outputs, panel.inputs]
            raise FormatError(f"{self.path}: {name} holds a weight {shape}, expected {list(weight.shape)}")
        try:
            _rs.lend_panels(weight, panel.weights, panel.strip, self._words(name))
        except ShapeError as error:
            raise FormatError(f"{self.path}: {name}: {error}") from None

    def weight(self, name: str) -> _rs.Tensor:
        """The weight that ``name`` holds, its elements read back from the panels when they are asked for."""
        panel = self.panels[name]
        try:
            return _rs.unpacked((panel.outputs, panel.inputs), panel.weights, panel.strip, self._words(name))
        except ShapeError as error:
            raise FormatError(f"{self.path}: {name}: {error}") from None

    def _words(self, name: str) -> _rs.Tensor:
        if name not in self._names:
            raise FormatError(f"{self.path}: the words of {name} are missing")
        return self._file.stored(name)


def write(path: Path, weights: Mapping[str, tuple[_rs.Tensor, str]], *, of: str = "") -> None:
    """Pack ``weights``, each as it is to be held, into a file at ``path``, whole or not at all.

    Raises InputError for a weight that cannot be held so, FileError if the file cannot be written.
    """
    words, said = {}, {}
    for name, (weight, held) in weights.items():
        words[name], strip = _rs.pack(name, weight, held)
        outputs, inputs = weight.shape
        said[name] = asdict(Panel(weights=held, outputs=outputs, inputs=inputs, strip=strip, origin=weight.origin))
    written = json.dumps(said, sort_keys=True)
    metadata = {"format": FORMAT, "version": VERSION, "of": of, "panels": written}
    _rs.save_safetensors(path, words, metadata | {"sha256": hashlib.sha256(written.encode()).hexdigest()})
