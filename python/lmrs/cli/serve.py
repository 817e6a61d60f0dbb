"""`lmrs serve`: a model over HTTP."""

import os
from pathlib import Path

import click

from lmrs.cli import options
from lmrs.cli.running import open_engine
from lmrs.engine import CACHE_BYTES, DType

EXAMPLES = """\b
Examples:
  lmrs serve smollm2.gguf --port 8000 --dtype int8
  lmrs serve gpt2 --delta poet=poet/ --delta clerk=clerk/   # model "gpt2:poet"
  curl localhost:8000/v1/completions -d '{"model": "smollm2", "prompt": "The sea", "max_tokens": 20}'
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.option("--delta", "deltas", multiple=True, metavar="NAME=DIR", help="A delta requests may name; repeatable.")
@click.option("--name", metavar="NAME", help="What requests call the model; by default its file's name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The port.")
@click.option("--api-key", envvar="LMRS_API_KEY", help="Ask for this key. Better set as LMRS_API_KEY.")
@click.option("--delta-root", type=click.Path(path_type=Path), metavar="DIR", help="Clients may load deltas from here.")
@click.option(
    "--cache-mib",
    default=CACHE_BYTES >> 20,
    show_default=True,
    type=click.IntRange(1),
    help="What keys and values may take, those of prompts kept for others included.",
)
@options.dtype
@click.option(
    "--packed",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep packed weights here: the next start maps them.",
)
def serve(
    *,
    model: Path,
    deltas: tuple[str, ...],
    name: str | None,
    host: str,
    port: int,
    api_key: str | None,
    delta_root: Path | None,
    cache_mib: int,
    dtype: DType | None,
    packed: Path | None,
) -> None:
    """Serve MODEL over HTTP, as OpenAI's clients expect it: completions, chat, embeddings.

    A request for the model NAME:DELTA runs with that delta; requests with different deltas run side by side, each as if
    alone. Needs `pip install lmrs[serve]`.
    """
    try:
        from lmrs.serve import create_app
        from lmrs.serve.run import run
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed: pip install 'lmrs[serve]'") from None
    engine = open_engine(model, dtype=dtype, cache=packed, cache_bytes=cache_mib << 20)
    for delta in deltas:
        short, equals, directory = delta.partition("=")
        if not equals or not short or not directory:
            raise click.BadParameter(f"{delta!r} is not NAME=DIR", param_hint="--delta")
        engine.load_delta(short, directory)
    called = name or (model.stem if model.is_file() else Path(os.path.abspath(model)).name)
    click.echo(f"{called} at http://{host}:{port}", err=True)
    run(create_app(engine, name=called, api_key=api_key, delta_root=delta_root), host=host, port=port)
