"""A home for supervisors, and the certainty that nothing of it is left behind."""

from tests.clusters.conftest import site

__all__ = ["site"]
