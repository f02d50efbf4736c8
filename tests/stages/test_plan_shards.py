"""plan_shards: every image once, in order, in whole batches and groups of them."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofe.artifacts.parts import TOGETHER, bounds, images_of
from mofe.errors import MofeError
from mofe.stages.plan_shards import plan_shards


@given(num_images=st.integers(1, 2000), batch_size=st.integers(1, 20), shards=st.integers(1, 20))
def test_shards_are_a_partition_into_groups_of_whole_batches(num_images: int, batch_size: int, shards: int) -> None:
    edges = bounds(num_images, batch_size, shards)
    assert (edges[0], edges[-1]) == (0, num_images)
    size = TOGETHER * batch_size
    assert all(edge % size == 0 for edge in edges[:-1])
    groups = [-(-(stop - start) // size) for start, stop in pairwise(edges)]
    assert len(groups) == min(shards, -(-num_images // size))
    assert 1 <= min(groups) <= max(groups) <= min(groups) + 1
    of_each = [images_of(shard, shards, num_images, batch_size) for shard in range(len(groups))]
    assert [position for mine in of_each for position in mine] == list(range(num_images))


@pytest.mark.usefixtures("groups_of_eight")
def test_no_more_shards_than_groups(make_images: Callable[..., str]) -> None:
    images = make_images()  # 48
    assert plan_shards(images, shards=3, batch_size=1) == [0, 1, 2]
    assert plan_shards(images, shards=30, batch_size=1) == [0, 1, 2, 3, 4, 5]
    assert plan_shards(images, shards=30.0, batch_size=6.0) == [0]  # type: ignore[arg-type]
    with pytest.raises(MofeError, match="shards = 1 must be at least 2: to run without shards, use the pipeline mofe"):
        plan_shards(images, shards=1)
    refusal = "shard = 6 must lie between 0 and 5, the shards of 48 images in groups of 8 batches of 1"
    with pytest.raises(MofeError, match=refusal):
        images_of(6, 30, 48, 1)
