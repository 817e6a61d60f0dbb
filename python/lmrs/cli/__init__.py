"""The command line: one file a command, each thin over the library."""

import click

from lmrs.errors import Error


class Commands(click.Group):
    """A group that turns the library's typed errors into one line and a non-zero exit."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what was wrong with the input is said once, without a traceback."""
        try:
            return super().invoke(ctx)
        except (Error, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lmrs")
def main() -> None:
    """Load, score, run and tune language models on this machine.

    Start with `lmrs demo`, which needs nothing but this package. MODEL is a directory with a config.json and
    safetensors, or a GGUF file.
    """
