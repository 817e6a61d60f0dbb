"""Checkpoints of a training run: written whole or not at all, and resumed to the same bits."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lmrs.backend import native
from lmrs.errors import FormatError, InputError
from lmrs.files import read_json, replaced_directory, write_json
from lmrs.nn.module import Parameter
from lmrs.train.run import Run, Step
from lmrs.weights import read_safetensors, write_safetensors

_FORMAT = "lmrs training 1"
_STATE, _TENSORS = "state.json", "state.safetensors"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """A directory with a checkpoint a save, `step-00000100` and so on; the latest two are kept.

    A checkpoint holds the trainable weights, the moments of the optimiser and a few integers: order and dropout are
    functions of them. ``settings`` describe the run; one with other settings is not resumed.
    """

    directory: Path
    settings: Mapping[str, str]

    def complete(self) -> list[Path]:
        """The checkpoints there are, oldest first. What an interrupted save left behind is none."""
        return sorted(path for path in self.directory.glob("step-*") if (path / _STATE).is_file())

    def save(self, run: Run, parameters: Mapping[str, Parameter]) -> None:
        """Write a checkpoint, then remove all but the latest. Raises FileError if it cannot be written.

        Of several processes that make the same steps, the first writes.
        """
        backend = run.optimiser.backend
        if backend.workers()[0]:
            return
        tensors = {f"weight/{path}": parameter.data for path, parameter in parameters.items()}
        for path, moments in run.optimiser.moments.items():
            names = run.optimiser.settings.names(parameters[path].shape)
            tensors |= {f"{name}/{path}": moment for name, moment in zip(names, moments, strict=True)}
        tensors |= {f"average/{path}": values for path, values in run.average.items()}
        state = {
            "format": _FORMAT,
            "settings": dict(self.settings),
            "optimiser_steps": run.optimiser.steps,
            "drawn": run.drawn,
            "memory": run.memory,
            "steps": [asdict(step) for step in run.steps],
        }
        with replaced_directory(self.directory / f"step-{run.optimiser.steps:08}", names={_STATE, _TENSORS}) as fresh:
            data = {name: native.array(backend.numpy(tensor)).tensor for name, tensor in tensors.items()}
            write_safetensors(fresh / _TENSORS, data)
            write_json(fresh / _STATE, state)
        for old in self.complete()[:-_KEPT]:
            shutil.rmtree(old)

    def start(self, run: Run, parameters: Mapping[str, Parameter], *, resume: bool) -> None:
        """Put ``run`` and ``parameters`` where the latest checkpoint was, if there is one.

        Raises InputError if there is one and ``resume`` is false, or if it is of a run with other settings; FormatError
        if it is not a checkpoint of these parameters.
        """
        if not (found := self.complete()):
            return
        path = found[-1]
        if not resume:
            raise InputError(f"{self.directory} holds {path.name} of a run: resume it or choose another directory")
        state = read_json(path / _STATE)
        if state.get("format") != _FORMAT:
            raise FormatError(f"{path / _STATE} is not a {_FORMAT!r}")
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise InputError(f"{path} is of a run with {name} = {state['settings'].get(name)}, not {value}")
        tensors = {name: tensor.numpy() for name, tensor in read_safetensors(path / _TENSORS).items()}
        missing = {f"weight/{name}" for name in parameters} - tensors.keys()
        if missing:
            raise FormatError(f"{path / _TENSORS} lacks {', '.join(sorted(missing)[:4])}")
        backend = run.optimiser.backend
        for name, parameter in parameters.items():
            parameter.data = backend.like(parameter.data, tensors[f"weight/{name}"])
            kept = [f"{moment}/{name}" for moment in run.optimiser.settings.names(parameter.shape)]
            if kept[0] in tensors:
                run.optimiser.moments[name] = tuple(backend.loaded(parameter.data, tensors[key]) for key in kept)
            if f"average/{name}" in tensors:
                run.average[name] = backend.like(parameter.data, tensors[f"average/{name}"])
        run.optimiser.steps, run.drawn = state["optimiser_steps"], state["drawn"]
        run.memory.update(state.get("memory", {}))
        run.steps = [Step(**step) for step in state["steps"]]
