# Every target sets up what it needs in .venv-X.Y by itself, with the Pythons (>= 3.11) that scripts/find-pythons finds.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Tests start Python some thousand times: each would compile anew what it imports.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help venv demo test test-core test-lowest test-long chaos fuzz check fix bench docs screenshots clean

# Processes that share the tests of one run: most tests wait for other processes. TESTS: what to run. ARGS: more for pytest.
# RETRY=1: run what failed once more, alone: on a busy machine another process may have come too late for a test.
# QUICK=1: on the oldest Python only VERSIONED, what depends on the version of Python most.
# COVER=1: report branch coverage, on the newest Python; the tests then take about a third longer.
JOBS ?= 5
TESTS ?=
# The benchmarks of `make bench`; flat, image, peers and failures take longer.
BENCH ?= enqueue latency drain fork
COUNT ?= 1000000
VERSIONED = tests/unit tests/contract tests/adapters/test_sqlalchemy.py tests/adapters/test_pytest_plugin.py \
    tests/integration/test_outcomes.py tests/integration/test_sharing.py tests/integration/test_spares.py
ARGS ?=
PYTEST = -m pytest -n $(JOBS) --dist worksteal $(ARGS)

help:
	@echo "make demo       the main job, on real input, with a Postgres of its own if there is none"
	@echo "                DASHBOARD=1: with the dashboard on it, until Ctrl-C"
	@echo "make test       the tests, on the oldest and the newest Python found (TESTS=path JOBS=$(JOBS) ARGS= COVER=1)"
	@echo "make test-core  the core's tests without any optional package, on the newest Python"
	@echo "make test-lowest  the same with each dependency at its lowest version, on the oldest Python"
	@echo "make test-long  the tests that take minutes"
	@echo "make chaos      faults of every kind, a checker, a table (ARGS='--kills 1000' the long form)"
	@echo "make fuzz       a million odd inputs for the decoders of payloads and frames (COUNT=$(COUNT))"
	@echo "make check      ruff, mypy --strict, layers of imports"
	@echo "make fix        what ruff can repair and format by itself"
	@echo "make bench      the cheap benchmarks (BENCH=\"$(BENCH)\" ARGS=)"
	@echo "make screenshots  the dashboard's pictures in docs/images, made with chromium"
	@echo "make docs       check that links and Python code in the documentation hold"

venv:
	@scripts/venv oldest newest

demo:
	@venv="$$(scripts/venv newest)"; "$$venv/bin/pq" demo $(if $(DASHBOARD),--dashboard)

test:
	@venvs="$$(scripts/venv oldest newest)"; newest="$${venvs##*$$'\n'}"; \
	for venv in $$venvs; do \
	    chosen="$(TESTS)"; if [ -z "$$chosen" ] && [ "$$venv" != "$$newest" ] && [ -n "$(QUICK)" ]; then chosen="$(VERSIONED)"; fi; \
	    cover=; if [ -n "$(COVER)" ] && [ "$$venv" = "$$newest" ]; then cover="--cov --cov-report=term"; fi; \
	    echo "== $$("$$venv/bin/python" -V)"; \
	    "$$venv/bin/python" $(PYTEST) $$cover $$chosen || { \
	        [ $$? = 1 ] && [ -n "$(RETRY)" ] || exit 1; \
	        echo "== once more, one at a time: what failed"; \
	        "$$venv/bin/python" -m pytest -p no:xdist --last-failed --last-failed-no-failures none $$chosen; \
	    }; \
	done

# Tests of adapters and plugins stand apart; others say which optional package they need.
CORE = tests/unit tests/integration tests/contract tests/migrations tests/acceptance tests/architecture

test-core:
	@venv="$$(scripts/venv core newest)"; PQ_TEST_ENVIRONMENT=core "$$venv/bin/python" $(PYTEST) $(or $(TESTS),$(CORE))

test-lowest:
	@venv="$$(scripts/venv lowest oldest)"; \
	PQ_TEST_ENVIRONMENT=lowest "$$venv/bin/python" $(PYTEST) $(or $(TESTS),tests/unit tests/integration tests/migrations)

test-long:
	@venv="$$(scripts/venv newest)"; "$$venv/bin/python" -m pytest -n 2 -m long --timeout 1800 $(ARGS) $(TESTS)

chaos:
	@venv="$$(scripts/venv newest)"; "$$venv/bin/python" -m tests.chaos $(ARGS)

fuzz:
	@venv="$$(scripts/venv newest)"; PYTHONPATH="$$PWD" "$$venv/bin/python" scripts/fuzz.py --count $(COUNT)

check:
	@venv="$$(scripts/venv newest)"; export PATH="$$PWD/$$venv/bin:$$PATH"; \
	ruff check .; \
	ruff format --check .; \
	mypy; \
	lint-imports --no-logo

fix:
	@venv="$$(scripts/venv newest)"; "$$venv/bin/ruff" check --fix . || true; "$$venv/bin/ruff" format .

bench:
	@venv="$$(scripts/venv newest)"; for name in $(BENCH); do "$$venv/bin/python" -m benchmarks "$$name" $(ARGS); done

docs:
	@venv="$$(scripts/venv newest)"; "$$venv/bin/python" scripts/check_docs.py README.md CHANGELOG.md docs examples

screenshots:
	@venv="$$(scripts/venv newest)"; PQ_SCREENSHOTS=docs/images "$$venv/bin/python" -m pytest -p no:xdist -m "not long" --timeout 300 tests/browser/test_screenshots.py $(ARGS)

clean:
	rm -rf .venv-* .pq .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* build dist
