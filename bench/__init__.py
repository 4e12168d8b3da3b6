"""Measures a running server over HTTP: `python -m bench --help`."""
