"""Where searches live: what an address may not hold."""

from __future__ import annotations

import os

import pytest

from hpsearch.home import storage_location
from search_spaces.errors import UserError


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "abfs://container@account/prefix", "s3://bucket/a:b@c", ""])
def test_a_url_stays_as_it_is(url: str) -> None:
    assert storage_location(url) == url


def test_a_folder_is_named_by_its_whole_path() -> None:
    assert storage_location("there") == os.path.join(os.getcwd(), "there")


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match="--storage: must not hold a password") as caught:
        storage_location("s3://key:secret@bucket/prefix")
    assert "secret@" not in str(caught.value) and "key:" not in str(caught.value)
