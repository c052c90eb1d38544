# A list of plain commands; README.md shows the same for those without make.
PYTHON ?= python3
PY = .venv/bin/python
DATA = datasets/synthetic

.PHONY: train test app

# The full MTL network on 1,000 pets drawn in code. Run again, it goes on where it was.
train: .venv/ready $(DATA)
	$(PY) data_rechunk.py --data $(DATA)
	$(PY) train_mtl.py --data $(DATA) --runs runs/synthetic --epochs 24 --resume
	$(PY) mtl_vis.py --data $(DATA) --checkpoint runs/synthetic/mtl/seed0/best.pt --out mask.png

test: .venv/ready
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile

# The trained network in a browser, at http://127.0.0.1:7860.
app: .venv/ready-app
	$(PY) app.py

$(DATA): | .venv/ready
	$(PY) data_prepare.py --synthetic 1000 --size 128 --fractions 70-10-20 --out $(DATA)

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -r requirements.txt
	touch .venv/ready

.venv/ready-app: .venv/ready requirements-app.txt
	$(PY) -m pip install -r requirements-app.txt
	touch .venv/ready-app
