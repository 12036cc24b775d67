"""Under overload images are looked up while others are found, and refused without a lookup while none are."""

from service.core.admission import HitRatio

ENOUGH = 1_000


def looks(ratio: HitRatio, images: int, *, found: bool) -> int:
    """So many images come; return how many of them are looked up."""
    looked = 0
    for _ in range(images):
        if ratio.lookup_pays():
            ratio.count(hit=found)
            looked += 1
    return looked


def test_every_image_is_worth_a_look_at_first_and_while_some_are_found() -> None:
    """One found in fifty keeps it so."""
    ratio = HitRatio()
    for _ in range(20):
        assert 49 == looks(ratio, 49, found=False)
        assert 1 == looks(ratio, 1, found=True)


def test_where_nothing_is_found_one_in_64_is_looked_up() -> None:
    """After some hundreds of looks in vain."""
    ratio = HitRatio()
    assert ENOUGH > looks(ratio, ENOUGH, found=False) > 200
    assert 10 == looks(ratio, 640, found=False)


def test_one_that_is_found_turns_it() -> None:
    """All are looked up again, until there have been some dozens in vain."""
    ratio = HitRatio()
    looks(ratio, ENOUGH, found=False)
    while not looks(ratio, 1, found=True):
        pass
    assert 20 == looks(ratio, 20, found=False)
    assert 100 > looks(ratio, ENOUGH, found=False)
