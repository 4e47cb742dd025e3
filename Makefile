# Two commands: `make book` builds the site, `make test` tests everything. `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?=
export PYTHON
export PYTHONPATH := $(CURDIR)
# Waiting threads sleep: with the default they spin, and two notebooks on two cores slow each other down eightfold.
export OMP_WAIT_POLICY := PASSIVE
RUN := .venv/bin/python
SLUG ?=

.PHONY: help book pdf test execute record lint serve bench mutants clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

book:  ## the site in _build/html, after executing the notebooks whose source changed
	@sh scripts/setup.sh book
	@stale=$$($(RUN) -m kexue_nb stale) || exit 1; if [ -n "$$stale" ]; then sh scripts/setup.sh test && $(RUN) -m kexue_nb execute || exit 1; fi
	@$(RUN) -m kexue_nb site

pdf:  ## the whole book as _build/pdf/scientific-spaces-executed.pdf (LaTeX needed, some minutes); run it before `make book`
	@sh scripts/setup.sh book
	@$(RUN) -m kexue_nb pdf

test: book  ## every test: package, notebooks (re-run and compared), pages in a browser
	@sh scripts/setup.sh test
	@$(RUN) -m pytest -n 2 --dist loadscope --nbval --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 900 -q tests notebooks

execute:  ## execute notebooks: the stale ones, or SLUG=attention-scale
	@sh scripts/setup.sh test
	@$(RUN) -m kexue_nb execute $(SLUG)

record:  ## record SLUG=... at full scale on this machine's GPU
	@sh scripts/setup.sh test
	@$(RUN) -m kexue_nb record $(SLUG)

lint:  ## ruff, check and format
	@sh scripts/setup.sh test
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

serve: book  ## the site on http://localhost:8000
	@$(RUN) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

bench:  ## our algorithms beside what a reader would otherwise use, on this CPU (or GPU)
	@sh scripts/setup.sh test
	@$(RUN) -m benchmarks --write book/benchmarks/$$($(RUN) -c "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')").json

mutants:  ## plant errors in notebooks and package and see which checks notice (about an hour; goes on where it stopped)
	@sh scripts/setup.sh test
	@$(RUN) -m mutants $(if $(SLUG),$(SLUG),--write)

clean:  ## remove the built site (not .venv)
	@rm -rf _build
