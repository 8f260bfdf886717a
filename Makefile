# Every target sets up its own virtual environment first: .venv, or $TTBERT_VENV.
# ARGS goes on to the program: make test ARGS="-k cache", make demo ARGS="--batch 7".
# TTNN is the version of TT-NN to test with, if not the installed one: make test TTNN=0.80.0
# LOWEST=1 tests with the lowest versions that setup.cfg allows: make test LOWEST=1 ARGS="tests/test_source.py"

.DEFAULT_GOAL := help
.PHONY: help demo test install lint clean setup

# The environment stands alone: a tt-metal checkout on PYTHONPATH would hide the ttnn installed there.
unexport PYTHONPATH PYTHONHOME

# Expanded by the recipe's shell, so that the path may contain spaces.
bin := "$${TTBERT_VENV:-.venv}/bin"

help: ## Show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1	/p' Makefile | while IFS='	' read -r name what; do \
		printf '  make %-9s%s\n' "$$name" "$$what"; done

demo: setup ## Answer a batch of questions with the bundled model
	@$(bin)/ttbert demo --model bundled --batch 8 $(ARGS)

test: lint ## Check style and types, then run the tests
	@$(if $(TTNN),sh scripts/with_ttnn.sh $(TTNN)) $(if $(LOWEST),sh scripts/with_lowest.sh) $(bin)/python -m pytest $(ARGS)

install: setup ## Only set up the virtual environment
	@echo "ttbert is installed in $${TTBERT_VENV:-.venv}; see it work with: make demo"

lint: setup ## Check style and types
	@$(bin)/python -m ruff check .
	@$(bin)/python -m ruff format --check .
	@$(bin)/python -m mypy

clean: ## Remove caches and build products; the virtual environment stays
	@rm -rf build dist *.egg-info ttbert/convert/_pack.*so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find ttbert tests -type d -name __pycache__ -prune -exec rm -rf {} +

setup:
	@sh scripts/setup.sh
