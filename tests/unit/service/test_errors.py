"""Every error has a status, and every message helps."""

import inspect

from service import errors
from service.errors import ServiceError, slug
from service.http.problems import STATUS


def leaves(tree: type[ServiceError]) -> set[type[ServiceError]]:
    """Return the classes of the tree that have no subclasses."""
    below = tree.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {tree}


def test_every_error_has_a_status() -> None:
    """The table is total over the leaves of the tree, and names nothing else."""
    assert leaves(ServiceError) == set(STATUS)


def test_problem_types_are_distinct() -> None:
    """No two errors share a problem type."""
    assert len({slug(error) for error in STATUS}) == len(STATUS)


def test_the_tree_is_drawn_where_it_is_defined() -> None:
    """The module's docstring names every class of the module, and each class says what it means."""
    drawn = inspect.getdoc(errors) or ""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert [] == [c.__name__ for c in classes if c.__name__ not in drawn or not c.__doc__]


def test_unknown_names_are_answered_with_known_ones() -> None:
    """Few names are all listed, of many the nearest three, and what came is quoted but bounded."""
    assert errors.unknown("output", "tpo", ["top", "early"]) == "Unknown output 'tpo'. Known: 'early', 'top'."
    many = [f"layer{i}" for i in range(100)]
    assert "Nearest: 'layer42', " in errors.unknown("output", "layer42x", many)
    assert len(errors.unknown("output", "x" * 10_000, many)) < 200
