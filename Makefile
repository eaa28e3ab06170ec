PYTHON ?= python3
export PYTHON
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.PHONY: help venv demo real lock test test-vllm test-adapters test-gpu bench-gpu docs test-browser export house readme notebooks clean

help:        ## this list
	@sed -n 's/^\([a-z-]*\): *.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

venv:        ## make .venv and install hir with everything for development
	@.ci/venv dev

lock:        ## write hashes.txt: what make venv installs, with sums; from then on it installs nothing else
	@.ci/lock

demo:        ## train the toy with and without replay and show what changed
	@.ci/venv
	@.venv/bin/hir demo

real:        ## fetch SmolLM2-135M and train it for half an hour: what it says before and after
	@.ci/venv dev
	@.venv/bin/hir get smollm2
	@.venv/bin/hir real

test:        ## run every notebook and every test (HIR_SLOW= leaves out the slow ones)
	@.ci/test

test-vllm:   ## test sampling with vLLM and judging by it, in an environment of its own (.venv-vllm)
	@.ci/test-vllm

test-adapters: ## test TRL's, verl's, lm-eval's and verifiers' adapters, each in an environment of its own
	@.ci/test-adapters

test-gpu:    ## prove on this machine's GPU what needs one: sampling, updates, whole runs in every precision
	@.ci/test-gpu

bench-gpu:   ## measure it: sampling, an update, a step, and a recipe at the size of Qwen3-4B
	@.ci/test-gpu bench

test-browser: ## open the widgets in JupyterLab in a real browser; screenshots in runs/screenshots
	@.ci/test-browser

docs:        ## build the site into _docs/site, offline
	@.ci/docs

export: venv ## write hir/ from the notebooks and clean the notebooks
	nbdev_export
	nbdev_clean

house:       ## draw the rooms and their arrows: nbs/images/house.svg
	@$(PYTHON) .ci/house.py

readme: venv ## write README.md from nbs/index.ipynb
	python .ci/readme.py

notebooks: venv ## run all notebooks anew, keeping their outputs
	OMP_NUM_THREADS=1 python .ci/execute.py
	nbdev_clean

clean:       ## remove what can be made again (.venv stays; runs/ stays)
	rm -rf build dist *.egg-info _proc _docs .pytest_cache .hypothesis
	find hir tests .ci -name __pycache__ -prune -exec rm -rf {} +
