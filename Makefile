# demo and test create .venv and install what they need by themselves, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(abspath $(BIN))/uv pip install -q --python
PIP := $(INSTALL) $(VENV) -c constraints/desk.txt
WORKERS ?= 2
TOOL ?= docker
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25
IMAGES := toolkit/pairs/purify_pairs/fashion-mnist/images

GRAPHS := $(VENV)/graphs
APT := $(abspath $(VENV))/apt
APT_GET := apt-get -qq -o Dir::Etc::sourcelist=$(APT)/sources.list -o Dir::Etc::sourceparts=- \
	-o Dir::State::lists=$(APT)/lists -o Dir::Cache=$(APT)/cache -o APT::Sandbox::User=

# What tests of cameras need of the system: a Python that can serve RTSP, and a few of GStreamer's elements.
GSTREAMER_PACKAGES := gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	gstreamer1.0-plugins-ugly gstreamer1.0-libav python3-gst-1.0 gir1.2-gst-rtsp-server-1.0 python3-opencv
GSTREAMER := /usr/bin/python3 -c "import cv2, gi; gi.require_version('GstRtspServer', '1.0')" 2>/dev/null \
	&& gst-inspect-1.0 --exists x264enc && gst-inspect-1.0 --exists avdec_h264 && gst-inspect-1.0 --exists rtspsrc

EMULATOR_PACKAGES := proot qemu-user-static
EMULATOR := command -v proot >/dev/null && command -v qemu-aarch64-static >/dev/null && command -v apt-get >/dev/null

.PHONY: bench check clean constraints containers demo demo-photos dist docs mutants size test \
	test-aarch64 test-all test-cameras test-demo test-graphs test-integrations test-runtime test-serving

# Export the pre-trained pair, check the bundle against PyTorch, purify the sample images.
demo: $(VENV)/.export
	$(BIN)/purify-export --fp16 --out demo/bundle --force
	$(BIN)/purify-check demo/bundle
	$(BIN)/purify-run demo/bundle $(IMAGES)/*.png --save demo/purified --save-grid demo/purified.png --force
	@echo "bundle: demo/bundle, report: demo/bundle/report.html, picture: demo/purified.png"

# The bundle for photographs that ships, without PyTorch: is it what was trained? Attacked photographs, purified.
demo-photos: $(VENV)/.photos
	mkdir -p demo
	$(BIN)/purify-check photos --rounds 0 --report demo/photos.html --force
	$(BIN)/purify-run photos lab/photographs/shown/attacked/*.png --spare-clean --save demo/photos --save-grid demo/photos.png --force
	@echo "picture: demo/photos.png, report: demo/photos.html; with a picture of yours: $(BIN)/purify-run photos FILE --spare-clean"

# On a machine that does nothing else: the pair that ships beside PyTorch, plain ONNX Runtime and plain OpenVINO, with which
# bars hold; what purify-run leaves of the engine's speed; whether anything grows or breaks over 200,000 predictions.
# What the pipeline takes while other processes keep the cores busy; BUNDLES= names further bundles for that, an export of
# cifar10 say. All of them are done, whatever the ones before found.
bench: $(VENV)/.export
	$(PIP) ./toolkit/pairs -e '.[export,cpu,openvino]'
	$(BIN)/purify-export --targets onnx --out demo/bench --force
	failed=; \
	$(BIN)/python -m lab.speed demo/bench --run fashion-mnist --soak 100000 || failed=1; \
	$(BIN)/python -m lab.speed.load demo/bench $(BUNDLES) || failed=1; \
	$(BIN)/python -m lab.speed.throughput demo/bench || failed=1; \
	$(BIN)/python -m lab.speed.soak demo/bench || failed=1; \
	test -z "$$failed"

# The tests but for those marked slow, by two processes of one thread each; with more cores: make test WORKERS=8. The tests of
# a file stay with one process, which makes what they share once; files go in their order, for tests/bulk takes longest.
test: $(VENV)/.test
	$(PYTEST) -m 'not slow'

# Every test.
test-all: $(VENV)/.test
	$(PYTEST)

# The runtime's tests, but for those marked slow or once, in an environment without torch; all of them with MARKED= :
# make test-runtime PYTHON=python3.10 VENV=.venv-3.10. They need a bundle: make demo.
MARKED ?= not slow and not once
test-runtime: $(VENV)/.runtime
	PURIFY_TEST_BUNDLE=demo/bundle $(PYTEST) -m '$(MARKED)' tests/runtime runtime

# Classifiers that TensorFlow's and PaddlePaddle's own converters write, as docs/training.md has the commands.
test-graphs: $(VENV)/.test $(GRAPHS)/tf2onnx.onnx $(GRAPHS)/paddle2onnx.onnx
	PURIFY_TEST_GRAPHS=$(GRAPHS) $(PYTEST) tests/toolkit/test_graphs_of_frameworks.py

# A bundle in a real Triton, with its Python backend, as docs/serving.md has it.
test-serving: $(VENV)/.test $(VENV)/.triton
	PURIFY_TEST_TRITON=$(abspath $(VENV)-triton) $(PYTEST) tests/serving
	rm -rf $(VENV)-triton $(VENV)/.triton

# The page of purify-demo in a real Chromium, in an environment of its own, for Gradio brings much with it.
test-demo: $(VENV)/.demo
	OMP_NUM_THREADS=1 $(VENV)-demo/bin/python -m pytest tests/demo

# Cameras by a real GStreamer, with an RTSP server on this machine; Debian's packages are installed where they may be.
test-cameras: $(VENV)/.test
	@$(GSTREAMER) || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $(GSTREAMER_PACKAGES) >/dev/null; } || true
	@if $(GSTREAMER); then PURIFY_TEST_GSTREAMER=/usr/bin/python3 $(PYTEST) tests/cameras; \
	else echo "skipped: /usr/bin/python3 has no GStreamer here, and apt-get may not install $(GSTREAMER_PACKAGES)"; fi

# The program in C++ of purify-export --integrations, with ONNX Runtime's headers and the library of its wheel.
test-integrations: $(VENV)/.test $(VENV)/.headers
	PURIFY_TEST_ONNXRUNTIME=$(APT)/usr/include/onnxruntime $(PYTEST) tests/export/test_integrations_cpp.py

# The documentation as a site, in site/: `python -m http.server --directory site` shows it. Needs npm, for ONNX Runtime Web.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q

# The image for CPUs, built and run by Docker or Podman: make containers TOOL=podman. Some minutes, so not in .ci/run.
containers: $(VENV)/.test
	PURIFY_TEST_CONTAINERS=$(TOOL) $(PYTEST) -s --numprocesses 0 tests/containers

# The wheel on an emulated Arm processor, on 32 images; all of it, in an hour: python -m lab.aarch64.
test-aarch64: $(VENV)/.test
	@$(EMULATOR) || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $(EMULATOR_PACKAGES) >/dev/null; } || true
	@if $(EMULATOR); then PURIFY_TEST_AARCH64=1 $(PYTEST) -s --numprocesses 0 tests/lab/test_aarch64.py; \
	else echo "skipped: no emulator of an Arm processor here, and apt-get may not install $(EMULATOR_PACKAGES)"; fi

# Lint, format, types, import rules.
check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Lines, modules, import circles, docstrings and the wheel, held against their bounds.
size: $(VENV)/.check
	$(BIN)/python -m lab.size

# How many of a sample of faults in the code the tests find, room by room; half an hour. It needs a bundle: make demo.
mutants: $(VENV)/.test
	PURIFY_TEST_BUNDLE=$(CURDIR)/demo/bundle OMP_NUM_THREADS=1 $(BIN)/python -m lab.mutants

# What a release uploads: sdist and wheel of purify-edge, of the pairs and of the packed bundle.
dist: $(VENV)/.pip
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist toolkit/pairs
	$(BIN)/python -m build --outdir dist runtime/photos
	$(BIN)/twine check --strict dist/*

# The versions that the targets above install, for Python 3.10 to 3.13: those of before, where they still fit. All of them
# anew: make constraints UPGRADE=--upgrade. Gradio wants an older Pillow, so the demo has a file of its own.
LOCK := $(BIN)/uv pip compile pyproject.toml - -q $(UPGRADE) --universal --python-version 3.10 --no-annotate \
	--custom-compile-command 'make constraints' --no-emit-package purify-edge-pairs
DESK := export cpu heif hub metrics openvino ray rtx serve sign video
constraints: $(VENV)/.pip
	echo ./toolkit/pairs | $(LOCK) $(addprefix --extra ,$(DESK)) --group test --group docs --group check \
		-o constraints/desk.txt >/dev/null
	printf '%s\n' 'pytest>=8' 'playwright>=1.45' | $(LOCK) --extra cpu --extra demo -o constraints/demo.txt >/dev/null

clean:
	rm -rf .venv .venv-* build demo dist site

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv  # installs in a sixth of pip's time
	@touch $@

$(VENV)/.export: $(VENV)/.pip pyproject.toml constraints/desk.txt
	$(PIP) ./toolkit/pairs -e '.[export,cpu]'
	@touch $@

$(VENV)/.photos: $(VENV)/.pip pyproject.toml constraints/desk.txt
	$(PIP) ./runtime/photos -e '.[cpu]'
	@touch $@

$(VENV)/.test: $(VENV)/.export
	$(PIP) ./toolkit/pairs -e '.[export,cpu,heif,hub,metrics,openvino,ray,rtx,serve,sign,video]' --group test --group docs
	$(PIP) --no-deps tensorrt-stubs==10.13.0.35.1  # its dependencies are not all on PyPI
	@touch $@

# Without PyTorch, which the site does not need.
$(VENV)/.docs: $(VENV)/.pip pyproject.toml constraints/desk.txt
	$(PIP) -e . --group docs
	@touch $@

$(VENV)/.runtime: $(VENV)/.pip pyproject.toml constraints/desk.txt
	$(PIP) -e '.[cpu,heif,hub,metrics,video]' --group test-device
	@touch $@

$(VENV)/.check: $(VENV)/.export
	$(PIP) --group check
	@touch $@

# The server, and what it runs models with: numpy 2 gives this Triton wrong answers.
$(VENV)/.triton: $(VENV)/.pip pyproject.toml
	$(PYTHON) -m venv $(VENV)-triton
	$(INSTALL) $(VENV)-triton nvidia-pytriton==0.7.0 -e '.[cpu]' 'numpy<2'
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml constraints/demo.txt
	$(PYTHON) -m venv $(VENV)-demo
	$(INSTALL) $(VENV)-demo -c constraints/demo.txt -e '.[cpu,demo]' 'pytest>=8' 'playwright>=1.45'
	@touch $@

# Headers that no wheel of ONNX Runtime has, unpacked from Debian 13's package beside the environment, on any Debian; and
# the rest of CUDA's, of which PyPI's torch brings most.
$(VENV)/.headers: | $(VENV)/.pip
	$(PIP) 'nvidia-cuda-crt==13.0.*'
	mkdir -p $(APT)/lists/partial $(APT)/cache/archives/partial
	echo 'deb http://deb.debian.org/debian trixie main' > $(APT)/sources.list
	$(APT_GET) update
	cd $(APT) && $(APT_GET) download libonnxruntime-dev
	dpkg-deb -x $(APT)/libonnxruntime-dev_*.deb $(APT)
	@touch $@

# The frameworks are gigabytes, each in an environment that stays only as long as it is needed.
$(GRAPHS)/tf2onnx.onnx: tests/frameworks/of_tensorflow.py | $(VENV)/.pip
	$(PYTHON) -m venv $(VENV)-tensorflow
	$(INSTALL) $(VENV)-tensorflow tensorflow-cpu==2.21.0 tf2onnx==1.17.0
	mkdir -p $(GRAPHS)
	$(VENV)-tensorflow/bin/python $< $(GRAPHS)
	cd $(GRAPHS) && $(abspath $(VENV)-tensorflow)/bin/python -c \
		"import keras; m = keras.saving.load_model('my.keras'); m(m.inputs); m.export('keras.onnx', format='onnx')"
	$(VENV)-tensorflow/bin/python -m tf2onnx.convert --saved-model $(GRAPHS)/saved --opset 18 --output $@
	rm -rf $(VENV)-tensorflow

$(GRAPHS)/paddle2onnx.onnx: tests/frameworks/of_paddle.py | $(VENV)/.pip
	$(PYTHON) -m venv $(VENV)-paddle
	$(INSTALL) $(VENV)-paddle paddlepaddle==3.3.1 paddle2onnx==2.1.0 packaging sympy onnxruntime
	mkdir -p $(GRAPHS)
	$(VENV)-paddle/bin/python $< $(GRAPHS)
	$(VENV)-paddle/bin/paddle2onnx --model_dir $(GRAPHS) --model_filename inference.json \
		--params_filename inference.pdiparams --save_file $@
	rm -rf $(VENV)-paddle
