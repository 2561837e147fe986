# The README's two commands, and the pieces they are made of.

VENV ?= .venv
PYTHON ?= python3
# What runs the demo's model: hf (transformers) or vllm (its build for CPUs).
ENGINE ?= hf
export VENV PYTHON ENGINE

.PHONY: demo test check setup-demo setup-test clean

demo: setup-demo  ## run the whole job on a real small model, and print its scores
	$(VENV)/bin/themis demo --dir demo-out --engine $(ENGINE) $(DEMO_OPTIONS)

test: setup-test  ## run every check and every test
	bash .ci/check

check: setup-test  ## the checks alone: format, lint, types, layers
	bash .ci/check --no-tests

setup-demo:
	bash .ci/setup demo

setup-test:
	bash .ci/setup test

clean:
	rm -rf $(VENV) demo-out .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
