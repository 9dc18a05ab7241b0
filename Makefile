# `make help` lists the targets. Each makes what it needs itself; only test-root, image-test and
# torture need root.

.DEFAULT_GOAL := help
PYTHON ?= python3
# .venv has the packages of requirements.txt, and those of requirements-NAME.txt where .ready-NAME is.
READY := .venv/.ready
DEVELOPING := .venv/.ready-dev
DOCUMENTING := .venv/.ready-docs
OPERATING := .venv/.ready-fleet
# Two more than there are processors, for tests wait too.
PROCESSES ?= $(shell expr $$(nproc) + 2)
ROOT_UNIT := tests.unit.deploy tests.unit.archive.extract.test_unpack \
	tests.unit.cli.box.test_listener_owner tests.unit.test_build_update

.PHONY: help demo test unit functional test-root torture test-oldest test-newest vm-test deb deb-test \
	image image-test docs screenshots diagram fmt lint bench manuals lock clean

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand --tabs=13

# With one line of progress on a terminal.
PIP_INSTALL := .venv/bin/python tests/helpers/pip_progress.py --constraint constraints.txt

$(READY): requirements.txt constraints.txt pyproject.toml setup.py
	@echo "Installing $$(grep -c == requirements.lock) Python packages into .venv: 11 MB to download."
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --editable .
	@touch $@

.venv/.ready-dev: SIZE := 120 MB
.venv/.ready-docs: SIZE := 30 MB
.venv/.ready-fleet: SIZE := 9 MB
$(DEVELOPING): requirements-fleet.txt
$(DEVELOPING) $(DOCUMENTING) $(OPERATING): .venv/.ready-%: requirements-%.txt $(READY)
	@echo "Installing what $< names into .venv: $(SIZE) to download."
	@$(PIP_INSTALL) --requirement $<
	@touch $@

# CLICK=1 needs no person. FLEET=1: a good release is rolled out to a fleet, and a bad one is held.
demo: $(READY) $(if $(FLEET),$(OPERATING)) ## Let a box in a folder install an update; with FLEET=1 25 small boxes
	@.venv/bin/python -m demo $(if $(FLEET),--fleet) $(if $(CLICK),--click)

$(if $(filter test,$(MAKECMDGOALS)),$(info The tests and the checks take about 6 minutes on two free processors.))
test: unit functional lint ## Run the tests that a change has to pass, and the checks

unit: $(DEVELOPING) ## Run the unit tests, several at a time
	.venv/bin/python -m twisted.trial --jobs=$(PROCESSES) --reporter=text tests

functional: $(DEVELOPING) ## Run the functional tests, several at a time
	.venv/bin/python -m pytest --numprocesses=$(PROCESSES) --dist=loadgroup tests/functional

# Those that do otherwise for root, or need rights that some machines give to root only.
test-root: $(DEVELOPING) ## Run the tests that an ordinary user cannot run everywhere (as root)
	.venv/bin/python -m twisted.trial --jobs=$(PROCESSES) --reporter=text $(ROOT_UNIT)
	.venv/bin/python -m pytest -m root tests/functional

# `make test` tries a sample of these cases: tests/helpers/torture.py.
torture: export TORTURE := 1
torture: unit functional deb-test vm-test image-test ## Try every case; takes hours, and needs root

# In an environment of its own, which is made anew; PYTHON=python3.13 takes another Python.
test-oldest: ## Run the unit tests with the oldest versions that requirements.txt allows
test-newest: ## Run the unit tests with the newest versions that there are today
test-oldest: CONSTRAINTS := constraints-oldest.txt
test-newest: CONSTRAINTS := /dev/null
test-oldest test-newest:
	$(PYTHON) -m venv --clear build/$@
	build/$@/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) \
		--requirement requirements-dev.txt --editable .
	PYTHON=$(CURDIR)/build/$@/bin/python build/$@/bin/python -m twisted.trial \
		--jobs=$(PROCESSES) --reporter=text tests

# CUTS=10 SEED=1 STAGE=downloading JOBS=1 ONLY="update power-cuts"
vm-test: $(DEVELOPING) ## Update a real machine in QEMU, with power cuts
	.venv/bin/python -m tests.vm $(CUTS:%=--cuts=%) $(SEED:%=--seed=%) $(ROW:%=--row=%) \
		$(STAGE:%=--stage=%) \
		$(JOBS:%=--jobs=%) $(ONLY:%=--only=%)

deb: manuals ## Build the Debian package of the server, into dist/
	deploy/server/build-deb dist

# ONLY=build builds it twice, and asks lintian.
deb-test: manuals ## Install, upgrade and remove that package in a Debian of its own
	.venv/bin/python -m tests.deb $(ONLY:%=--only=%)

DOCKER ?= docker
IMAGE := openpowerquality/opqboxupdateserver
image: ## Build the container image of the server, and its bill of materials into dist/
	$(DOCKER) build --file deploy/server/Dockerfile --tag $(IMAGE) \
		--build-arg REVISION=$$(git rev-parse HEAD) .
	mkdir -p dist
	$(DOCKER) run --rm --entrypoint cat $(IMAGE) /usr/share/doc/opq-update-server/sbom.cdx.json \
		>dist/opqboxupdateserver.cdx.json.new
	mv dist/opqboxupdateserver.cdx.json.new dist/opqboxupdateserver.cdx.json

image-test: $(DEVELOPING) ## Try the container image of the server in podman (as root)
	.venv/bin/python -m tests.image

docs: $(DOCUMENTING) ## Write the documentation as a site into build/site, and check its links
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet --clean

screenshots: $(DEVELOPING) ## Make the pictures of the page in docs/pictures
	.venv/bin/python -m tests.browser.screenshots

diagram: $(DEVELOPING) ## Draw the stages of an update in docs/architecture.md
	.venv/bin/python -m tests.helpers.stage_diagram

fmt: $(DEVELOPING) ## Format the sources, and fix what ruff can fix
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lint: $(DEVELOPING) ## Check format, style, types, imports and shell scripts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/shellcheck opq_twisted/box/install/preflight.sh \
		deploy/box/install_update.sh deploy/box/bin/opq-box-agent \
		deploy/box/bin/opq-box deploy/box/bin/release-python \
		deploy/box/rescue/opq-box-rescue deploy/box/rescue/place deploy/box/golden-image \
		deploy/server/docker-run.sh deploy/server/build-deb .ci/run examples/mysensor/install.sh \
		deploy/server/debian/opq-update-server.postinst \
		deploy/server/debian/opq-update-server.prerm deploy/server/debian/opq-update-server.postrm

bench: $(DEVELOPING) ## Measure everything in docs/performance.md
	for name in watch pieces build delta unpack agent_memory interrupted_download idle_agent trust publish \
		downloads answers waiting slow_readers page fleet_page report_cost; do \
		.venv/bin/python -m benchmarks.$$name || exit 1; \
	done
	.venv/bin/python -m benchmarks.fleet --seconds 60 --herd 10000

# TO=build: the folder to write into.
manuals: $(DEVELOPING) ## Write the manual pages and shell completions into build/
	.venv/bin/python build_manuals.py $(or $(TO),build)

# The versions in constraints.txt, and their hashes in the *.lock files: docs/building-an-update.md
# tells when. Versions that are there stay: UPGRADE=1 takes the newest, UPGRADE="attrs treq" of these.
NEWER := $(if $(filter 1,$(UPGRADE)),--upgrade,$(UPGRADE:%=--upgrade-package=%))
# No address of an index, nor anything of this machine, may get into the files.
COMPILE := build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
HASH := $(COMPILE) --constraint constraints.txt --generate-hashes --only-binary :all: \
	--emit-build-options

# Not in .venv, which cannot be made where requirements.txt asks for what constraints.txt excludes.
build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --constraint constraints.txt uv

lock: build/uv/bin/uv ## Renew constraints*.txt and the *.lock files (UPGRADE=1: take the newest versions)
	printf 'pip\nsetuptools\nuv\n' | $(COMPILE) $(NEWER) --output-file constraints.txt \
		- requirements.txt requirements-fleet.txt requirements-dev.txt requirements-docs.txt
	grep --extended-regexp \
		"^($$(sed -n 's/^\([a-z-]\+\).*/\1/p' requirements-dev.txt | paste -sd '|'))==" \
		constraints.txt | $(COMPILE) --resolution lowest-direct \
		--output-file constraints-oldest.txt - requirements.txt requirements-fleet.txt
	$(HASH) --output-file requirements.lock requirements.txt
	$(HASH) --output-file requirements-fleet.lock requirements-fleet.txt
	echo pip | $(HASH) --output-file requirements-pip.lock -
	echo setuptools | $(HASH) --output-file requirements-build.lock -
	echo cyclonedx-bom | $(HASH) --output-file requirements-sbom.lock -

clean: ## Remove everything that these targets make
	rm -rf .venv .demo .vm .deb .image build dist *.egg-info _trial_temp* .hypothesis \
		.import_linter_cache .mypy_cache .pytest_cache .ruff_cache
