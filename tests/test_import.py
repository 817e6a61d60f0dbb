"""`import lmrs` is cheap, imports no heavy package, and every public name resolves."""

import importlib.metadata
import subprocess
import sys

import lmrs


def test_import_loads_nothing_else() -> None:
    program = "import sys\nbefore = set(sys.modules)\nimport lmrs\nprint(*set(sys.modules) - before)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in answer.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert loaded == {"lmrs"}


def test_everything_but_the_command_line_without_torch() -> None:
    program = (
        "import lmrs, sys\nfor name in lmrs.__all__: getattr(lmrs, name)\n"
        "print(*[name for name in ('torch', 'rich', 'click') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


def test_dir_lists_the_public_names() -> None:
    assert dir(lmrs) == sorted(lmrs.__all__)


def test_the_wheel_is_one_small_abi3_wheel() -> None:
    distribution = importlib.metadata.distribution("lmrs")
    wheel = distribution.read_text("WHEEL")
    assert wheel is not None
    tags = [line.split()[1] for line in wheel.splitlines() if line.startswith("Tag:")]
    assert tags
    assert all(tag.startswith("cp311-abi3-") for tag in tags)
    installed = [file for file in distribution.files or [] if file.suffix != ".pyc"]
    assert sum(file.size or 0 for file in installed) < 30_000_000
