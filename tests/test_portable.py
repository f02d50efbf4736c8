"""Places in a work folder that was moved or copied."""

from pathlib import Path

from mofe.runners.portable import placed, portable


def test_places_in_the_work_folder_follow_it() -> None:
    before, after = Path("/a/project/runs/p"), Path("/b/copy of project/runs/p")
    value = {
        "images": {"uri": "/a/project/runs/p/artifacts/x/images", "metadata": {}},
        "all": ["/a/project/runs/p", 1.0, None, True],
        "beside": "/a/project/runs/p2/artifacts",
        "in words": "see /a/project/runs/p/logs",
        "elsewhere": "s3://bucket/a/project/runs/p",
    }
    kept = portable(value, before)
    assert kept == portable(placed(kept, after), after), "and so the keys of a cache are the same"
    moved = placed(kept, after)
    assert moved["images"]["uri"] == "/b/copy of project/runs/p/artifacts/x/images"
    assert moved["all"] == ["/b/copy of project/runs/p", 1.0, None, True]
    for name in ("beside", "in words", "elsewhere"):
        assert moved[name] == value[name]
    assert placed(kept, before) == value
