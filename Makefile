# oCore's commands. This file makes the virtual environment; everything else is Python (`./manage.py help`).

PYTHON ?= python3
VENV := .venv
MANAGE := $(VENV)/bin/python manage.py
# The tests choose their own folders, names and ports; a developer's .env and environment must not reach them.
TEST_ENV := env -u PYTHONDONTWRITEBYTECODE -u OCORE_STATE_DIR -u DATABASE_URL -u REDIS_URL -u DJANGO_SETTINGS_MODULE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up down clean-machine test test-fast lint format bench chaos model screenshots venv venv-dev prepare-tests

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

up: venv ## Bring the portal and its demo up, and keep serving until Ctrl-C
	@$(MANAGE) up

down: venv ## Stop everything that is ours: portal, Redis, containers, and the engine if we started it
	@$(MANAGE) down

clean-machine: venv ## Remove every container, image, volume, network and database that carries our label
	@$(MANAGE) clean_machine $(if $(YES),--yes) $(if $(ALL),--every-installation)

test: lint prepare-tests test-fast ## Run all tests, with real Docker, PostgreSQL, Redis, git and Odoo
	@$(TEST_ENV) $(VENV)/bin/python -m pytest --ignore=tests/fast

test-fast: venv-dev ## Run the tests that need no Docker, Redis or root (under a minute on 2 cores)
	@$(TEST_ENV) $(VENV)/bin/python -m pytest tests/fast -n auto --dist worksteal --timeout 60 -o tmp_path_retention_policy=failed

lint: venv-dev ## Check style and types
	@echo "ruff check" && $(VENV)/bin/ruff check .
	@echo "ruff format --check" && $(VENV)/bin/ruff format --check .
	@echo "mypy (half a minute when its cache is cold)" && $(VENV)/bin/mypy .

format: venv-dev ## Put the code into its form
	@$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

bench: prepare-tests ## Measure push, rollback and the guards against the same typed by hand
	@$(VENV)/bin/python -m tests.bench

chaos: prepare-tests ## Kill anything at N crash points (N=all: each) and N random instants (N=100, SEED=1)
	@$(TEST_ENV) OCORE_CHAOS_N="$(or $(N),100)" OCORE_CHAOS_SEED="$(SEED)" OCORE_CHAOS_ONLY="$(ONLY)" \
		OCORE_CHAOS_SCENARIOS="$(SCENARIOS)" OCORE_CHAOS_LANE="$(LANE)" OCORE_CHAOS_MINUTES="$(MINUTES)" \
		$(VENV)/bin/python -m pytest -s tests/chaos $(if $(ONLY)$(SCENARIOS),-k crash_point) $(if $(RANDOM),-k any_instant)

model: venv-dev ## Act on the simulated server in N random orders, and kill a worker at every point (N=300: 15 minutes)
	@$(TEST_ENV) OCORE_MODEL_EXAMPLES=$(or $(N),300) $(VENV)/bin/python -m pytest -rP tests/fast/test_model.py

screenshots: prepare-tests ## Run the browser test and take the pictures of the README from it
	@$(TEST_ENV) OCORE_SCREENSHOTS="$(CURDIR)/var/screenshots" $(VENV)/bin/python -m pytest tests/browser
	@cp var/screenshots/deployment-page.png var/screenshots/environments.png var/screenshots/status-page.png docs/pictures/

prepare-tests: venv-dev
	@$(MANAGE) prepare_tests

venv: $(VENV)/.installed

venv-dev: $(VENV)/.installed-dev

$(VENV)/.installed: requirements.txt
	@PYTHON="$(PYTHON)" sh ocore/machine/make-venv.sh $(VENV) requirements.txt
	@touch $@

# The tools' file includes what oCore runs on: one installation serves both.
$(VENV)/.installed-dev: requirements-dev.txt requirements.txt
	@PYTHON="$(PYTHON)" sh ocore/machine/make-venv.sh $(VENV) requirements-dev.txt
	@touch $@ $(VENV)/.installed
