"""The layers of ARCHITECTURE.md: who may import whom, and where unsafe code may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "lmrs"

# Each row may import the rows above it and its own; nothing may import a row below.
LAYERS = [
    ["errors", "files", "hub"],
    ["batch", "ops", "pictures"],
    ["nn"],
    ["backend", "tokenizer"],
    ["data", "fingerprint", "gguf", "initialise", "weights"],
    ["models", "delta"],
    ["engine", "eval", "train"],
    ["scaling", "align", "prompting", "pretrain", "ray", "serve"],
    ["terminal"],
    ["demo"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STRANGERS = {("models", "delta"), ("delta", "models")}
NATIVE = {"weights.py"}
UNSAFE_CRATES = {"kernels", "tensor", "python"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module a file imports when it runs, wherever in the file, `from a import b` as `a.b`."""
    names = set()
    tree = ast.parse(path.read_text())
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    skipped = {id(inner) for node in for_types for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(module: str) -> str | None:
    """The part of lmrs a module name belongs to: `lmrs.models.gpt2` is in `models`."""
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "lmrs" and len(pieces) > 1 and pieces[1] in LEVEL else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    if inside.name == "__init__.py" and len(inside.parts) == 1:
        return
    own = inside.parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no layer: give it one in LAYERS and in ARCHITECTURE.md"
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in {"pickle", "dill", "cloudpickle", "joblib"}, name
        if top == "torch":
            assert inside.parts[:2] == ("backend", "torch")
        if top in {"starlette", "uvicorn", "prometheus_client"}:
            assert own == "serve"
        if top == "rich":
            assert own == "terminal"
        if top == "click":
            assert own == "cli"
        if top == "huggingface_hub":
            assert own == "hub"
        if name == "lmrs._rs" or name.startswith("lmrs._rs."):
            assert own in {"backend", "engine", "tokenizer"} or inside.as_posix() in NATIVE
        other = part(name)
        if other is not None and other != own:
            assert (own, other) not in STRANGERS
            assert LEVEL[other] <= LEVEL[own], f"{own} may not import {other}"


def test_rust_crates_forbid_unsafe_code() -> None:
    crates = sorted(path.parent for path in (ROOT / "rust").glob("*/Cargo.toml"))
    assert {crate.name for crate in crates} >= UNSAFE_CRATES
    for crate in crates:
        forbids = "#![forbid(unsafe_code)]" in (crate / "src" / "lib.rs").read_text()
        assert forbids == (crate.name not in UNSAFE_CRATES), crate.name


def test_pyo3_stays_in_the_glue() -> None:
    for manifest in (ROOT / "rust").glob("*/Cargo.toml"):
        assert ("pyo3" in manifest.read_text()) == (manifest.parent.name == "python"), manifest
