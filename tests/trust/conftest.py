"""The server of the edge's tests, for what is seen from outside."""

from tests.edge.conftest import make_settings as make_settings
from tests.edge.conftest import whole as whole
