# make setup    .venv with diffclass and its tools
# make demo     classify the packaged pictures; draws out/demo/demo.png
# make test     the checks and every test; JOBS=2 runs two at a time
# make check    formatting, lint, layers, types, spelling
# make docs     the documentation site in build/site: tutorials are run, links checked
# make dist     sdist and wheel in dist/, the wheel installed and used outside the checkout
# make format   rewrite the sources in the house style

BIN := .venv/bin
JOBS := 0

.PHONY: setup demo test check docs dist format lint clean

setup:
	@scripts/setup

demo: setup
	$(BIN)/diffclass demo

test: check
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: lint
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/codespell

docs: setup
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

dist: setup
	@scripts/dist

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf build dist out .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
