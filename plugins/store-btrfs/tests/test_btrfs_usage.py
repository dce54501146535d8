"""Free space of a btrfs is that of data or of metadata, whichever is less."""

import pytest

from obuilder_store_btrfs.usage import free_percent

_FORM = """Overall:
    Device size:\t\t        10000
    Device unallocated:\t\t        {unallocated}
    Data ratio:\t\t\t              {data_ratio}
    Metadata ratio:\t\t              2.00
    Global reserve:\t\t           {reserve}\t(used: 0)

{groups}
"""


def _usage(groups: str, *, unallocated: int = 0, data_ratio: str = "1.00", reserve: int = 0) -> str:
    return _FORM.format(
        groups=groups, unallocated=unallocated, data_ratio=data_ratio, reserve=reserve
    )


def test_full_data_is_a_full_disk() -> None:
    text = _usage("Data,single: Size:100, Used:90 (90%)\n\nMetadata,DUP: Size:100, Used:10 (10%)")
    assert free_percent(text) == 10


def test_full_metadata_is_a_full_disk() -> None:
    text = _usage("Data,single: Size:100, Used:10 (10%)\n\nMetadata,DUP: Size:100, Used:95 (95%)")
    assert free_percent(text) == 5


def test_unallocated_space_counts_as_often_as_it_would_be_written() -> None:
    text = _usage(
        "Data,RAID1: Size:100, Used:100 (100%)\nMetadata,DUP: Size:100, Used:0 (0%)",
        unallocated=200,
        data_ratio="2.00",
    )
    assert free_percent(text) == 50


def test_the_global_reserve_is_not_free() -> None:
    text = _usage(
        "Data,single: Size:100, Used:0 (0%)\nMetadata,DUP: Size:100, Used:50 (50%)", reserve=50
    )
    assert free_percent(text) == 0


def test_mixed_groups_and_several_profiles_are_added() -> None:
    text = _usage("Data+Metadata,single: Size:50, Used:25 (1%)\nData+Metadata,DUP: Size:50, Used:0")
    assert free_percent(text) == 75


def test_another_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="unallocated"):
        free_percent("something else")
