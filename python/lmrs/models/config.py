"""Reading a checkpoint's config: every field checked, every complaint naming the field."""

from collections.abc import Mapping
from typing import Any, get_args

from lmrs.errors import ConfigError
from lmrs.ops import Activation

# The names of transformers' ACT2FN for the functions of lmrs.ops.activation.
_ACTIVATIONS: dict[str, Activation] = {
    **{kind: kind for kind in get_args(Activation)},
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "swish": "silu",
}


MOST_LAYERS = 4096
"""More than any model has; a config that says more would build blocks until memory ends."""


class Fields:
    """The fields of one config.json; each accessor raises ConfigError for a field that is missing or makes no sense."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def size(self, name: str, default: int | None = None, *, most: int = 2**31 - 1) -> int:
        """An integer in 1 … ``most``; ``default`` if absent or null, unless that is None."""
        value = self._fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ConfigError(f"{name} is {self._shown(name)}, expected an integer in 1 … {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{name} is {self._shown(name)}, expected a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:  # noqa: FBT001 - the default of a flag is a flag
        """A boolean."""
        value = self._fields.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {self._shown(name)}, expected true or false")
        return value

    def activation(self, name: str, default: str) -> Activation:
        """The op's name of an activation function."""
        return activation(name, self.get(name) or default)

    def expect(self, name: str, *accepted: object) -> None:
        """The field is absent or one of ``accepted``: a variant that is not built must not load as another."""
        value = self._fields.get(name)
        if value is not None and value not in accepted:
            raise ConfigError(
                f"{name} is {value!r}, which is not supported (expected {' or '.join(map(repr, accepted))})"
            )

    def get(self, name: str, default: Any = None) -> Any:
        """The raw value."""
        return self._fields.get(name, default)

    def _shown(self, name: str) -> str:
        return repr(self._fields[name]) if name in self._fields else "missing"


def activation(field: str, name: object) -> Activation:
    """The op's name of transformers' activation ``name``, given in ``field``."""
    if name not in _ACTIVATIONS:
        raise ConfigError(f"{field} is {name!r}, expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[str(name)]


def written_activation(kind: Activation) -> str:
    """Transformers' name of an op's activation function, the inverse of :func:`activation`."""
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(kind, kind)
