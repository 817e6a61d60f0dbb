"""Ray Serve with a delta for each tenant.

A replica holds one model and the deltas used last, and requests of all of them run in one batch.

MODEL=smollm2.gguf DELTAS=deltas/ serve run ray_serve:app
"""

import os
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request

import lmrs


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 1})
class Tenants:
    """One model, and a delta for each request that names one."""

    def __init__(self) -> None:
        self.engine = lmrs.Engine(lmrs.load(os.environ["MODEL"]), dtype="int8")
        self.root = Path(os.environ["DELTAS"]).resolve()

    @serve.multiplexed(max_num_models_per_replica=8)
    async def delta(self, name: str) -> "Held":
        """The delta of a tenant, loaded."""
        found = (self.root / name).resolve()
        if found.parent != self.root:
            raise ValueError(f"{name!r} is not a delta")
        self.engine.load_delta(name, found)
        return Held(self.engine, name)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Continue the prompt of a request."""
        name = serve.get_multiplexed_model_id()
        held = await self.delta(name) if name else None
        asked = await request.json()
        async with self.engine.asubmit(
            asked["prompt"], max_tokens=asked.get("max_tokens", 16), delta=held and held.name
        ) as reply:
            return {"text": (await reply.result()).text}


class Held:
    """A delta that is loaded while Ray keeps it."""

    def __init__(self, engine: lmrs.Engine, name: str) -> None:
        self.engine, self.name = engine, name

    def __del__(self) -> None:
        self.engine.unload_delta(self.name)


app = Tenants.bind()  # type: ignore[attr-defined]
