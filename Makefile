# `make` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
REPOSITORY ?= models
SERVICE_FLAGS ?=
TRAINING_FLAGS ?=
BENCH_FLAGS ?=
SOAK_FLAGS ?=
# Tests run in two processes; each file runs whole in one of them, and files start in the order of their names.
TEST_PROCESSES ?= 2
IN_PROCESSES = --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-unit coverage test-slow test-containers upgrade check-deploy lint train serve bench bench-classify bench-edge bench-peers bench-gpu bench-workers bench-scaling bench-train bench-photos train-all report check-served soak soak-reload soak-restart soak-overload soak-deadlines soak-fleet attack stubs lock clean clean-all

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/installed ## train on bundled digits, serve, and classify held-out images and pictures over gRPC
	@test -e $(REPOSITORY)/mnist-simplecnn/1 || \
	  $(BIN)/python -m training --dataset mnist-sample --repository $(REPOSITORY)
	@$(BIN)/python -m tests.demo $(REPOSITORY)
	@echo
	@echo "next: make serve, then in another terminal:"
	@echo "  $(BIN)/python -m service.client classify tests/pictures/*.jpg"

test: .venv/installed ## run everything that CI runs, short of containers; 11 minutes
	$(BIN)/pytest $(IN_PROCESSES)

test-unit: .venv/installed ## run the unit tests; 45 s
	$(BIN)/pytest $(IN_PROCESSES) tests/unit

coverage: .venv/installed ## measure what tests/unit and tests/integration execute of the service's core; 2 minutes
	$(BIN)/pytest tests/unit/service tests/integration --ignore tests/integration/training --cov=service/batching --cov=service/models --cov=service/inference \
	  --cov-branch --cov-report=term

test-slow: .venv/installed ## run the tests that train several times or read hundreds of photographs; 8 minutes
	$(BIN)/pytest -m slow

test-containers: .venv/installed ## build the images and test the Compose stack in real containers; 5 minutes
	$(BIN)/pytest -m containers tests/deploy

upgrade: ## replace the replicas of the Compose stack by those of the current image, without losing a call
	@deploy/upgrade

# Skipped: image digests and imagePullPolicy Always (the overlays name tags in your registry); a fixed base (an argument).
check-deploy: .venv/installed ## check Dockerfiles and manifests with checkov, which it installs
	$(BIN)/uv tool run --from checkov==3.3.30 checkov --quiet --compact --skip-download --framework dockerfile kustomize \
	  --skip-check CKV_K8S_43,CKV_K8S_15,CKV_DOCKER_7 --directory deploy

lint: .venv/installed ## check style, types, the direction of imports and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos
	$(BIN)/hadolint deploy/docker/*.Dockerfile
	test ! -e $(BIN)/envoy || PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m deploy.edge check

train: .venv/installed ## train on the full MNIST, which it downloads into data/ if it is missing, and publish
	$(BIN)/python -m training --repository $(REPOSITORY) $(TRAINING_FLAGS)

train-all: .venv/installed ## train and publish all four networks on their full data sets in data/; 15 minutes on 2 cores
	@for model in mnist-simplecnn mnist-cnn cifar10-cnn cifar10-lenet; do \
	  $(BIN)/python -m training --model $$model --repository $(REPOSITORY) $(TRAINING_FLAGS) || exit 1; done

report: .venv/installed ## open the newest run's report in a browser; trains on the bundled digits if there is no run
	@ls runs/*/report.html >/dev/null 2>&1 || \
	  $(BIN)/python -m training --dataset mnist-sample --repository $(REPOSITORY) $(TRAINING_FLAGS)
	@report=$$(ls -t runs/*/report.html | head -1); echo $$report; \
	  $(BIN)/python -c 'import pathlib, sys, webbrowser; webbrowser.open(pathlib.Path(sys.argv[1]).resolve().as_uri())' $$report

check-served: .venv/installed ## send whole test sets to every published model over gRPC, and compare with the job's predictions
	$(BIN)/python -m tests.soaks.served --repository $(REPOSITORY) $(SOAK_FLAGS)

serve: .venv/installed ## serve the model repository until Ctrl-C
	$(BIN)/python -m service --model-repository $(REPOSITORY) $(SERVICE_FLAGS)

bench: .venv/installed ## measure the service beside Triton, if that is installed; 17 minutes
	$(BIN)/python -m tests.benchmarks.serving $(BENCH_FLAGS)

bench-classify: .venv/installed ## measure Classify with small and large pictures; 1 minute
	$(BIN)/python -m tests.benchmarks.classify --repository $(REPOSITORY) $(BENCH_FLAGS)

bench-edge: .venv/installed ## measure the cost of the edge with h2load, beside Triton; 2 minutes
	$(BIN)/python -m tests.benchmarks.edge --repository $(REPOSITORY) $(BENCH_FLAGS)

bench-peers: .venv/installed ## measure KServe's SDK, MLServer, LitServe and a plain grpc.aio server, which it installs; 5 minutes
	$(BIN)/python -m tests.benchmarks.peer_servers $(BENCH_FLAGS)

bench-gpu: .venv/installed ## measure a GPU alone, with copies over PCIe, and through the service
	$(BIN)/python -m tests.benchmarks.gpu $(BENCH_FLAGS)

bench-workers: .venv/installed ## measure the cost of more workers, and how connections spread over them
	$(BIN)/python -m tests.benchmarks.workers $(BENCH_FLAGS)

bench-scaling: .venv/installed ## measure the cost of a request by part, and compare the simulated fleet with it
	$(BIN)/python -m tests.benchmarks.scaling $(BENCH_FLAGS)

bench-train: .venv/installed ## measure training beside a busy process, under a quota, and against a tutorial's training loop on the full MNIST
	$(BIN)/python -m tests.benchmarks.train_neighbours
	$(BIN)/python -m tests.benchmarks.train_speed $(BENCH_FLAGS)

bench-photos: .venv/installed ## measure accuracy on photographs of held-out digits, 21 kinds through Classify; 75 s
	$(BIN)/python -m tests.benchmarks.photos --repository $(REPOSITORY) $(BENCH_FLAGS)

soak: soak-reload soak-restart soak-overload soak-deadlines ## run the next four; 10 minutes

soak-reload: .venv/installed ## 20 hot reloads under load, and the same load without reloads
	$(BIN)/python -m tests.soaks.reload --repository $(REPOSITORY) $(SOAK_FLAGS)

soak-restart: .venv/installed ## 10 rolling restarts of two replicas on one port, under load
	$(BIN)/python -m tests.soaks.restart --repository $(REPOSITORY) $(SOAK_FLAGS)

soak-overload: .venv/installed ## ten times the capacity for a minute
	$(BIN)/python -m tests.soaks.overload $(SOAK_FLAGS)

soak-deadlines: .venv/installed ## 1,024 callers with deadlines of 100 ms
	$(BIN)/python -m tests.soaks.deadlines --repository $(REPOSITORY) $(SOAK_FLAGS)

soak-fleet: .venv/installed ## stop, kill, scale, upgrade and reload the Compose stack under load, in containers; 4 minutes
	$(BIN)/python -m tests.soaks.fleet --repository $(REPOSITORY)

attack: .venv/installed ## attack a service of its own, or with SOAK_FLAGS="--address HOST:PORT --container NAME" a stack; 5 minutes
	$(BIN)/python -m tests.soaks.attacks --repository $(REPOSITORY) $(SOAK_FLAGS)

stubs: .venv/installed ## generate service/pb and the edge's descriptors from proto/
	$(BIN)/python proto/generate.py

LOCK := $(BIN)/uv pip compile --universal --generate-hashes --no-annotate --quiet --custom-compile-command "make lock" \
  --constraints deploy/locks/constraints.txt
# Images get the versions that the tests run.
LOCK_IMAGE := $(LOCK) --python-version 3.13 --constraints deploy/locks/dev.txt
# `make lock UPGRADE=` keeps the versions that are locked and still allowed.
UPGRADE ?= --upgrade

lock: .venv/installed ## resolve the lock files from pyproject.toml
	$(LOCK) $(UPGRADE) --extra dev pyproject.toml -o deploy/locks/dev.txt
	echo 'setuptools>=77' | $(LOCK_IMAGE) - -o deploy/locks/build.txt
	$(LOCK_IMAGE) --extra service --extra cpu pyproject.toml -o deploy/locks/service-cpu.txt
	$(LOCK_IMAGE) --extra service --extra gpu pyproject.toml -o deploy/locks/service-gpu.txt
	$(LOCK_IMAGE) --extra training --extra cpu pyproject.toml -o deploy/locks/training.txt

clean: ## remove what make makes again in minutes: the environment, builds and caches; models and runs stay
	rm -rf .venv build data/.cache .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Trained models can be of data that is gone. A script says YES=1; a terminal is asked.
clean-all: ## clean, and remove models/ and runs/ too, after a question
	@du -sh models runs 2>/dev/null || true
	@if [ "$(YES)" = 1 ]; then answer=y; \
	elif [ -t 0 ]; then printf 'remove these trained models and runs? [y/N] '; read -r answer; \
	else echo 'removes trained models and runs: without a terminal, say make clean-all YES=1' >&2; exit 1; fi; \
	case $$answer in [yY] | [yY]es) ;; *) echo 'nothing removed' >&2; exit 1 ;; esac
	@$(MAKE) --no-print-directory clean
	rm -rf models runs

PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check

# All packages of the lock file; installed again when the lock file or pyproject.toml changes. pip would compile their
# modules one after the other; compileall uses every core. Some packages hold files for newer versions of Python.
.venv/installed: deploy/locks/dev.txt pyproject.toml
	@echo "installing $$(grep -c '^[a-z].*==' $<) packages into .venv: 3 GB to download, 6.4 GB on disk, mostly PyTorch with CUDA; 2 minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) --no-compile --require-hashes --no-deps --requirement $<
	@$(BIN)/python -m compileall -qq --workers 0 .venv/lib || true
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
