"""The server of the edge's tests, for what is seen from outside."""

from tests.edge.conftest import make_settings, new_login, whole

__all__ = ["make_settings", "new_login", "whole"]
