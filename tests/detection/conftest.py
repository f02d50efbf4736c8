"""What every test of a detector is run on: random features, and real ones."""

import pytest
from samples import Sample, digits_features, random_features


@pytest.fixture(scope="session", params=[random_features, digits_features], ids=["random", "digits"])
def sample(request: pytest.FixtureRequest) -> Sample:
    return request.param()
