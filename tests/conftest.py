"""One Ray, one MLflow store and one finished tiny search serve a whole test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpsearch.folder import SearchFolder
from hpsearch.home import Home
from hpsearch.spec import Spec, load_spec
from hpsearch.view import QuietView

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the searches of the test run and their MLflow store live."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tokens of the test run live."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A real Ray, started once."""
    from hpsearch.ray_session import connected_ray

    with connected_ray("", QuietView()):
        yield


@pytest.fixture(scope="session")
def tiny_spec() -> Spec:
    """The shipped tiny search."""
    return load_spec(REPOSITORY / "search_spaces" / "tiny.yaml")


@pytest.fixture(scope="session")
def tiny(ray_session: None, tiny_spec: Spec, home: Path, cache: Path) -> SearchFolder:
    """The tiny search, run to its end with four slots."""
    from hpsearch.outcome import write_outcome
    from hpsearch.search import start_search

    folder = SearchFolder(Home(home), tiny_spec.name)
    start_search(tiny_spec, folder, cache, QuietView(), lambda state: write_outcome(state, folder))
    return folder
