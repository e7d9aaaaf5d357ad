"""The options of the sources, and that the plugin costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import trio_sup_oci
from trio_sup_oci import ImageFiles, Registries
from trio_sup_oci._platform import Platform, host_platform

from trio_sup import InvalidValue
from trio_sup._structuring import InvalidTable, structure


def test_the_hook_offers_both_schemes() -> None:
    assert trio_sup_oci.trio_sup_gallery_sources() == {"oci": Registries, "ocifile": ImageFiles}


def test_by_default_images_are_for_this_machine() -> None:
    source = Registries()
    assert (source.parallel, source.retries, source.stall_timeout, source.insecure_registries) == (4, 5, 60.0, ())
    assert source.platform == ImageFiles().platform == host_platform()


def test_options_are_read_from_a_table() -> None:
    table = {
        "parallel": 8,
        "retries": 0,
        "stall_timeout": "1m30s",
        "insecure_registries": ["Registry.LAN:5000", "index.docker.io"],
        "platform": "linux/arm/v7",
    }
    source = structure(Registries, table)
    assert (source.parallel, source.retries, source.stall_timeout) == (8, 0, 90.0)
    assert source.insecure_registries == ("registry.lan:5000", "docker.io")
    assert source.platform == Platform("linux", "arm", "v7")
    assert structure(ImageFiles, {"platform": "linux/amd64"}).platform == Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"parallel": 0}, "parallel: expected a whole number from 1 to 32"),
        ({"parallel": 33}, "parallel: "),
        ({"parallel": True}, "parallel: "),
        ({"parallel": "4"}, "parallel: "),
        ({"retries": -1}, "retries: expected a whole number from 0 to 100"),
        ({"retries": 1.5}, "retries: "),
        ({"stall_timeout": 0}, "stall_timeout: must be longer than 0"),
        ({"stall_timeout": "soon"}, "stall_timeout: expected a duration"),
        ({"insecure_registries": "quay.io"}, "insecure_registries: expected a list"),
        ({"insecure_registries": ["https://quay.io"]}, "insecure_registries: 'https://quay.io' is no host"),
        ({"insecure_registries": [5]}, "insecure_registries: expected a registry"),
        ({"platform": "arm64"}, "platform: expected a platform"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Registries(**options)
    assert str(caught.value).startswith(complaint)
    with pytest.raises(InvalidTable) as told:
        structure(Registries, options, "sources.oci")
    assert str(told.value).startswith(f"sources.oci.{complaint}")


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(InvalidTable, match="unknown key; did you mean 'parallel'"):
        structure(Registries, {"paralel": 1})
    with pytest.raises(InvalidTable, match="unknown key"):
        structure(Registries, {"_known": {}})


def test_nothing_heavy_is_loaded_until_something_is_fetched() -> None:
    program = """
import sys, trio_sup_oci
source = trio_sup_oci.Registries()
source.proof("oci://quay.io/a/b@sha256:" + "0" * 64, sha256=None, verification={})
trio_sup_oci.ImageFiles().proof("ocifile:///a", sha256="0" * 64, verification={})
print([name for name in ("httpx2", "cryptography", "zstandard", "tarfile", "trio_sup.engine") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
