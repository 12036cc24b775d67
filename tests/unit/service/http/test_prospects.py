"""In an overload images are looked up where others are found, and refused at once where none is."""

from service.http.prospects import Prospects

ENOUGH = 1_000


def looks(prospects: Prospects, images: int, *, found: bool) -> int:
    """So many images come; return how many of them are looked up."""
    looked = 0
    for _ in range(images):
        if prospects.worth_a_look():
            prospects.looked(found=found)
            looked += 1
    return looked


def test_every_image_is_worth_a_look_at_first_and_while_some_are_found() -> None:
    """One found in fifty keeps it so."""
    prospects = Prospects()
    for _ in range(20):
        assert 49 == looks(prospects, 49, found=False)
        assert 1 == looks(prospects, 1, found=True)


def test_where_nothing_is_found_one_in_sixteen_is_looked_up() -> None:
    """After some hundreds of looks in vain."""
    prospects = Prospects()
    assert ENOUGH > looks(prospects, ENOUGH, found=False) > 200
    assert 10 == looks(prospects, 160, found=False)


def test_one_that_is_found_turns_it() -> None:
    """All are looked up again, until there have been some dozens in vain."""
    prospects = Prospects()
    looks(prospects, ENOUGH, found=False)
    while not looks(prospects, 1, found=True):
        pass
    assert 20 == looks(prospects, 20, found=False)
    assert 100 > looks(prospects, ENOUGH, found=False)
