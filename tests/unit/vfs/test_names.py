"""Which keys are shown as names."""

from __future__ import annotations

import pytest

from csi_slayer.store.base import ListPage, ObjectInfo
from csi_slayer.vfs import names


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "x" * 256, "é" * 128, "\udcff"])
def test_what_cannot_be_a_name_is_hidden_and_told(name: str) -> None:
    page = ListPage([ObjectInfo(f"d/{name}", 1, "e", 1), ObjectInfo("d/good", 1, "e", 1)], [], None)
    found, hidden, _marker = names.from_page(page, "d/", 1)
    assert [item.name for item in found] == ["good"]
    assert len(hidden) == 1, "a mark with content, too"


def test_a_directory_whose_name_is_not_utf8_is_hidden() -> None:
    found, hidden, _marker = names.from_page(ListPage([], ["d/\udcff/"], None), "d/", 1)
    assert (found, len(hidden)) == ([], 1)
