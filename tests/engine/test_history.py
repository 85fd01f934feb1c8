import pytest
import torch

from graftwork.engine.history import History


def rows(start: int, stop: int) -> dict[str, torch.Tensor]:
    return {"number": torch.arange(start, stop)}


def test_rows_are_asked_for_by_their_number():
    history = History(3, 10, rows)
    assert (history.first, history.end) == (3, 10)
    assert history.read(4, 7)["number"].tolist() == [4, 5, 6]
    assert history.read(10, 10)["number"].shape == (0,)


@pytest.mark.parametrize(("start", "stop"), [(2, 5), (4, 11), (7, 6)])
def test_rows_that_are_not_there_cannot_be_read(start, stop):
    with pytest.raises(AssertionError):
        History(3, 10, rows).read(start, stop)


def test_a_memo_is_its_owners_and_by_default_a_new_one():
    digests = {(0, 4): "0" * 64}
    assert History(0, 5, rows, digests).digests is digests
    empty: dict[tuple[int, int], str] = {}
    assert History(0, 5, rows, empty).digests is empty
    assert History(0, 5, rows).digests is not History(0, 5, rows).digests
