"""`import lmrs` is cheap, imports no heavy package, and every public name resolves."""

import importlib.metadata
import subprocess
import sys

import lmrs

MEASURE = """
import sys, time
start = time.perf_counter()
import lmrs
print(time.perf_counter() - start)
print(*[name for name in ("torch", "numpy", "rich", "click", "lmrs._rs") if name in sys.modules])
"""


def test_import_is_cheap() -> None:
    # The best of three: the promise is about lmrs, not about what else the machine does.
    seconds = []
    for _ in range(3):
        answer = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
        duration, imported = answer.stdout.splitlines()
        assert imported == ""
        seconds.append(float(duration))
    assert min(seconds) < 0.1


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
