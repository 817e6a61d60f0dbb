"""`python -m lmrs` is `lmrs`."""

from lmrs.cli import main

main(prog_name="lmrs")
