"""Requests that are wrong in every way schemathesis knows, made from the server's own OpenAPI document.

`pip install schemathesis && python benches/malformed.py MODEL`: none may be answered by an error of the server, and the
server must live.
"""

import subprocess
import sys
import time
from pathlib import Path

import click
import httpx

ADDRESS = "http://127.0.0.1:8124"
CHECKS = "not_a_server_error,unsupported_method,content_type_conformance,status_code_conformance"


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--examples", default=200, show_default=True, help="For each route and phase.")
@click.option(
    "--checks", default="not_a_server_error", show_default=True, help=f"As schemathesis names them: {CHECKS}."
)
def main(*, model: Path, examples: int, checks: str) -> None:
    """See the module."""
    command = [sys.executable, "-m", "lmrs", "serve", str(model), "--name", "m", "--port", "8124", "--dtype", "int8"]
    server = subprocess.Popen(command)
    try:
        while True:
            try:
                if httpx.get(f"{ADDRESS}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if server.poll() is not None:
                raise click.ClickException("the server ended")
            time.sleep(0.2)
        judge = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{ADDRESS}/openapi.json"]
        options = ["--checks", checks, "-n", str(examples), "--mode", "all", "--suppress-health-check", "all"]
        judged = subprocess.run([*judge, *options, "--seed", "1", "--request-timeout", "60"], check=False)
        for row in httpx.get(f"{ADDRESS}/metrics").text.splitlines():
            if row.startswith("lmrs_requests_total"):
                click.echo(row)
        click.echo(f"the server {'lives' if server.poll() is None else 'died'}")
    finally:
        server.terminate()
        server.wait(60)
    sys.exit(judged.returncode)


if __name__ == "__main__":
    main()
