# make demo · make test · make torture · make vm-test · make deb · make deb-test · make image-test ·
# make lint · make bench · make manuals · make screenshots · make lock: each makes what it needs
# itself, and only image-test needs root.

PYTHON ?= python3
READY := .venv/.ready

.PHONY: demo test torture vm-test deb deb-test image-test screenshots lint bench manuals lock \
	clean

$(READY): requirements.txt requirements-dev.txt constraints.txt setup.py
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt \
		--requirement requirements-dev.txt --editable .
	touch $@

demo: $(READY)
	.venv/bin/python demo.py $(if $(CLICK),--click)

test: $(READY)
	.venv/bin/python -m twisted.trial tests
	.venv/bin/python -m pytest tests/functional
	$(MAKE) lint

# All kills and faults. `make test` tries a part of them; this takes hours.
torture: $(READY)
	EVERY=1 .venv/bin/python -m twisted.trial tests.test_install_script
	KILLS=all FAULTS=all .venv/bin/python -m pytest \
		tests/functional/test_kill_at_every_write.py tests/functional/test_system_call_failures.py

# A real machine in QEMU: CUTS=10 SEED=1 JOBS=1 ONLY="update power-cuts"
vm-test: $(READY)
	.venv/bin/python -m tests.vm $(CUTS:%=--cuts=%) $(SEED:%=--seed=%) $(ROW:%=--row=%) \
		$(JOBS:%=--jobs=%) $(ONLY:%=--only=%)

# The Debian package of the server, into dist/, with the manual pages that are in build/man.
deb: manuals
	deploy/server/build-deb dist

# Its whole life, in a Debian of its own.
deb-test: manuals
	.venv/bin/python -m tests.deb

# The container image of the server, in podman.
image-test: $(READY)
	.venv/bin/python -m tests.image

screenshots: $(READY)
	.venv/bin/python -m tests.browser.screenshots

lint: $(READY)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/shellcheck opq_twisted/box/preflight.sh \
		deploy/box/install_update.sh deploy/box/bin/opq-box-agent \
		deploy/box/bin/opq-box deploy/box/bin/release-python \
		deploy/box/rescue/opq-box-rescue deploy/box/rescue/place \
		deploy/server/docker-run.sh deploy/server/build-deb .ci/run \
		deploy/server/debian/opq-update-server.postinst \
		deploy/server/debian/opq-update-server.prerm deploy/server/debian/opq-update-server.postrm

bench: $(READY)
	for name in watch build unpack agent_memory interrupted_download idle_agent trust publish \
		downloads answers waiting slow_readers page; do \
		.venv/bin/python -m benchmarks.$$name || exit 1; \
	done

# The pages for man, and what completes commands in bash and zsh: TO=build
manuals: $(READY)
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

lock: build/uv/bin/uv
	printf 'pip\nsetuptools\nuv\n' | $(COMPILE) $(NEWER) --output-file constraints.txt \
		- requirements.txt requirements-dev.txt
	$(HASH) --output-file requirements.lock requirements.txt
	echo pip | $(HASH) --output-file requirements-pip.lock -
	echo setuptools | $(HASH) --output-file requirements-build.lock -

clean:
	rm -rf .venv .demo .vm .deb .image build dist *.egg-info _trial_temp* .pytest_cache .mypy_cache .ruff_cache
