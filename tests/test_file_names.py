"""Names of files that are made from a parameter's value."""

import pytest

from mofe.storage.file_names import LONGEST, file_name


@pytest.mark.parametrize("text", ["", "near-ood", "few seed 0", "größer", "a.b_c"])
def test_ordinary_names_stay(text: str) -> None:
    assert file_name(text) == text


def test_what_no_file_may_be_called_is_replaced() -> None:
    assert file_name("a/b\n\0") == "a_b__"
    assert file_name("a b?", r"[^A-Za-z0-9._-]") == "a_b_"


@pytest.mark.parametrize("letter", ["x", "ü", "日"])
def test_long_names_are_cut_and_told_apart(letter: str) -> None:
    one, other = file_name(letter * 500 + "1"), file_name(letter * 500 + "2")
    assert max(len(one.encode()), len(other.encode())) <= LONGEST
    assert one != other
    assert one.startswith(letter * 20)
    assert file_name(letter * 500 + "1") == one
