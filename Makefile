VENV   := .venv
PY     := $(VENV)/bin/python
PYTHON ?= python3

.PHONY: install
install: $(VENV)/.installed  ## set up .venv with the package and the development tools

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(VENV)/bin/pip install --quiet -c constraints.txt --group dev -e .
	@touch $@
