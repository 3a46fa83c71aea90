"""Which records of its files a recipe wants."""

import datetime
from decimal import Decimal

import pytest

from archer.data.config import Condition
from archer.data.files import DataFile
from archer.data.where import columns_of, meets_all
from archer.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    return DataFile(tmp_path / "some.jsonl", "data.sets.x.sources.y")


RECORD = {
    "level": "Level 5",
    "date": "2024-08-10T00:00:00",
    "day": datetime.date(2024, 8, 10),
    "rate": Decimal("0.5"),
    "valid": True,
    "nothing": None,
    "extra_info": {"difficulty": {"R1-1.5B": 7}},
    "unset": None,
}


def conditions(where):
    return [Condition(column=column, **wanted) for column, wanted in where.items()]


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({}, True),
        ({"level": {"one_of": ["Level 4", "Level 5"]}}, True),
        ({"level": {"one_of": ["5"]}}, False),
        ({"valid": {"one_of": [True]}, "level": {"one_of": ["Level 4"]}}, False),
        ({"rate": {"one_of": [0.5]}}, True),
        ({"rate": {"min": 0.5, "below": 0.6}}, True),
        ({"rate": {"below": 0.5}}, False),
        ({"date": {"min": "2024-08-10", "below": "2024-08-11"}}, True),
        ({"date": {"min": "2024-08-11"}}, False),
        ({"day": {"min": "2024-08-10"}}, True),
        ({"nothing": {"one_of": [None]}}, True),
        ({"nothing": {"min": 0}}, False),
        ({"extra_info.difficulty.R1-1.5B": {"min": 1, "below": 8}}, True),
        ({"extra_info.difficulty.R1-1.5B": {"below": 7}}, False),
        ({"unset.inside": {"below": 7}}, False),
    ],
)
def test_where_compares_columns(file, where, wanted):
    assert meets_all(file, 1, RECORD, conditions(where)) is wanted


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"levle": {"one_of": ["Level 5"]}}, ["Row 3", "level, date", "'levle'"]),
        ({"extra_info.rate": {"min": 1}}, ["Row 3", "'extra_info.rate'"]),
        ({"level": {"min": 5}}, ["Row 3", "'level' is 'Level 5'", "compared with 5"]),
    ],
)
def test_where_that_cannot_be_answered_is_refused(file, where, words):
    with pytest.raises(ConfigError) as error:
        meets_all(file, 3, RECORD, conditions(where))
    assert all(word in str(error.value) for word in [*words, str(file.path), file.key])


def test_the_columns_of_where_include_every_object_that_dots_may_lead_into():
    names = columns_of(conditions({"extra_info.model-1.5B": {"min": 1}, "level": {"min": 5}}))
    assert names == {"extra_info", "extra_info.model-1", "extra_info.model-1.5B", "level"}
