"""How the stylizer in the package is made; `python -m pipeline.demo --help`."""
