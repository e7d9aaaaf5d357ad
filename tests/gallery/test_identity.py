"""All names that mean the same files, over aliases and metas, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gallery.test_listing import release
from trio_sup.gallery._identity import concrete_name, identity, meant_by, metas_of
from trio_sup.gallery._listing import Inventory, take_inventory

ALL = {"cpu-engine", "engine", "motor", "nick"}


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    release(tmp_path, "cpu-engine", {"name": "cpu-engine", "alias": "nick"})
    release(tmp_path, "engine", {"name": "engine", "meta_backend_for": "cpu-engine"}, script=False)
    release(tmp_path, "motor", {"name": "motor", "meta_backend_for": "cpu-engine"}, script=False)
    release(tmp_path, "other", {"alias": "nock"})
    return take_inventory(tmp_path)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_name_leads_to_all_of_them(inventory: Inventory, name: str) -> None:
    assert identity(inventory, name) == ALL
    assert concrete_name(inventory, name) == "cpu-engine"


def test_others_are_left_alone(inventory: Inventory) -> None:
    assert identity(inventory, "nock") == {"other", "nock"}
    assert identity(inventory, "unknown") == {"unknown"}
    assert concrete_name(inventory, "unknown") == "unknown"
    assert metas_of(inventory, "cpu-engine") == ("engine", "motor")


def test_builds_with_one_alias_are_not_the_same(tmp_path: Path) -> None:
    for name in ("cpu-engine", "cuda-engine"):
        release(tmp_path, name, {"alias": "engine"})
    inventory = take_inventory(tmp_path, prefer=("cuda",))
    assert identity(inventory, "engine") == identity(inventory, "cuda-engine") == {"engine", "cuda-engine"}
    assert identity(inventory, "cpu-engine") == {"cpu-engine"}


def test_the_names_of_a_release_that_is_gone_belong_together(tmp_path: Path) -> None:
    for name in ("engine", "motor"):
        release(tmp_path, name, {"meta_backend_for": "gone"}, script=False)
    assert identity(take_inventory(tmp_path), "motor") == {"engine", "motor", "gone"}


def test_a_renamed_directory_goes_by_the_name_it_was_installed_as(tmp_path: Path) -> None:
    release(tmp_path, "renamed", {"name": "one"})
    inventory = take_inventory(tmp_path)
    assert identity(inventory, "one") == identity(inventory, "renamed") == {"one", "renamed"}
    release(tmp_path, "one")
    inventory = take_inventory(tmp_path)
    assert identity(inventory, "renamed") == {"renamed"}
    assert identity(inventory, "one") == {"one"}


def test_what_came_with_the_machine_is_itself(tmp_path: Path) -> None:
    release(tmp_path / "system", "one", {"alias": "nick", "name": "two"})
    inventory = take_inventory(tmp_path / "user", tmp_path / "system")
    assert identity(inventory, "one") == {"one"}


def test_a_name_that_meta_and_alias_use_differently_means_both_when_it_goes(tmp_path: Path) -> None:
    release(tmp_path, "cpu-engine", {"alias": "engine"})
    release(tmp_path, "cuda-engine", {"alias": "engine"})
    release(tmp_path, "engine", {"meta_backend_for": "cpu-engine"}, script=False)
    inventory = take_inventory(tmp_path, prefer=("cuda",))
    assert concrete_name(inventory, "engine") == "cuda-engine"
    assert meant_by(inventory, "engine") == ("cuda-engine", "cpu-engine")
    assert identity(inventory, "engine") == {"engine", "cuda-engine", "cpu-engine"}
    assert identity(inventory, "cpu-engine") == {"cpu-engine"}
