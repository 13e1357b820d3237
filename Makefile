# Two commands on a fresh machine with Python 3.11 and make: `make up` and `make test`. Both set up what they need.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
HOME_DIR ?= .perene

# compiled bytecode makes imports 3-5 times faster; some machines switch it off
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK := true

.PHONY: setup up demo test check format bench bench-monitoring bench-promotion bench-retraining chaos models lock generate clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV)
	touch $(STAMP)

up: setup ## set up, then the demo: train, serve, watch, retrain, promote; serves until Ctrl-C
	$(BIN)/perene up --demo flights --home $(HOME_DIR)

demo: setup ## the same until the first promotion, then exit with JSON
	$(BIN)/perene demo flights --until-promoted --json --home $(HOME_DIR)-demo

test: setup ## the whole suite on real parts, two processes side by side
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup ## linters, types, layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -m monitoring.alerting.alerts --check deploy/prometheus/perene-rules.yml
	$(BIN)/python -m grafana --check deploy/grafana/perene.json
	$(BIN)/python docs/generate.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## timings: never part of a test
	$(BIN)/python -m bench

bench-monitoring: setup ## the claims of docs/drift-evidence.md; with FULL=1 an hour, saved and written there
	bench/monitoring/setup
	$(BIN)/python -m bench.monitoring.simulate $(if $(FULL),--full --save)
	for part in car_loan concept real beside worker; do \
	  $(BIN)/python -m bench.monitoring.$$part $(if $(FULL),--save) || exit 1; done
	$(if $(FULL),$(BIN)/python -m bench.monitoring.table)

bench-promotion: setup ## the claims of docs/promotion-evidence.md; with FULL=1 a quarter of an hour, saved and written there
	$(BIN)/python -m bench.promotion.simulate $(if $(FULL),--full --save)
	$(BIN)/python -m bench.promotion.gates $(if $(FULL),--write,--runs 500)
	$(if $(FULL),$(BIN)/python -m bench.promotion.table)

bench-retraining: setup ## docs/retraining-evidence.md; with FULL=1 all of it, saved and written there
	bench/monitoring/setup
	$(BIN)/python -m bench.retraining.flights $(if $(FULL),--save,--model flight-time --quarter 0)
	$(BIN)/python -m bench.retraining.employment $(if $(FULL),--save,--seeds 1)
	$(BIN)/python -m bench.retraining.synthetic $(if $(FULL),--save,--seeds 3)
	$(if $(FULL),$(BIN)/python -m bench.retraining.table)

chaos: setup ## kill -9 for longer than CI has time for
	PERENE_CHAOS=full $(BIN)/python -m pytest tests/chaos tests/acceptance \
	  -k "chaos or kill or swap or slow or hostile or dear or json or schemathesis or graceful or metrics_truth or everything"

models: setup ## docs/models.md: every family fitted, certified, served and timed
	scripts/torch $(VENV)
	PERENE_WRITE_MODELS=1 $(BIN)/python -m pytest -q tests/integration/test_families.py

generate: setup
	$(BIN)/python -m monitoring.alerting.alerts --write deploy/prometheus/perene-rules.yml
	$(BIN)/python -m grafana --write deploy/grafana/perene.json
	$(BIN)/python docs/generate.py --write

lock: setup ## resolve pyproject.toml again, with hashes and without host names
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
