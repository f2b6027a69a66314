"""The tests mirror the layers of the package; shared helpers are in builders.py and conftest.py."""
