"""The page to try the API on, and the files that it is made of."""

import json
import re
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from schema import build_schema
from server import assets
from server.app import create_app
from server.assets import ASSETS, STATIC, AssetsError, installed
from server.documents import Documents
from server.graphiql import EXAMPLES, LOOKUP, Example, GraphiQL
from server.guard import Limits
from tests.edge.conftest import JSON, MakeSettings, Served, serving
from tests.edge.schema import edge_schema

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, from npm."""
    if installed():
        return STATIC
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("static")
    assets.install(folder)
    return folder


def config_of(html: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="config">(.*?)</script>', html)
    assert found is not None
    config: dict[str, object] = json.loads(found[1])
    return config


async def test_browsers_get_the_page_and_only_browsers(served: Served) -> None:
    page = await served.client.get("/graphql", headers=HTML)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["vary"] == "Accept"
    assert config_of(page.text)["token"] is None
    for accept in ("*/*", JSON):
        assert (await served.client.get("/graphql", headers={"accept": accept})).status_code == 405


async def test_the_bare_address_leads_to_it(served: Served) -> None:
    answer = await served.client.get("/", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (307, "/graphql")


async def test_it_is_made_of_files_of_this_server(served: Served) -> None:
    page = (await served.client.get("/graphql", headers=HTML)).text
    scripts = re.findall(r'(?:src|href)="(/[^"]+)"', page)
    assert scripts
    for path in scripts:
        assert (await served.client.get(path)).status_code == 200, path


async def test_there_is_no_page_where_the_schema_is_not_shown(
    make_settings: MakeSettings,
) -> None:
    app = create_app(make_settings(introspection=False), schema=edge_schema)
    async with serving(app) as served:
        assert (await served.client.get("/graphql", headers=HTML)).status_code == 405
        for query in ("{ __schema { queryType { name } } }", '{ __type(name: "Query") { name } }'):
            answer = (await served.post(query)).json()
            assert answer["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
        assert (await served.post("{ __typename }")).json() == {"data": {"__typename": "Query"}}


def test_the_packages_hold_the_expected_files(static: Path) -> None:
    assert installed(static)
    locked = json.loads((assets.SOURCES / "package-lock.json").read_text())["packages"]
    for asset in ASSETS:
        assert locked[f"node_modules/{asset.package}"]["version"] == asset.version


def test_a_file_that_was_changed_is_not_used(static: Path, tmp_path: Path) -> None:
    copy = tmp_path / "static"
    shutil.copytree(static, copy)
    assert installed(copy)
    (copy / ASSETS[0].name).write_text("alert('not React')")
    assert not installed(copy)
    assert not GraphiQL(static=copy).local


def test_without_them_the_page_takes_them_from_a_cdn_and_the_log_says_so(tmp_path: Path) -> None:
    with capture_logs() as logs:
        page = GraphiQL(static=tmp_path)
    assert [line["event"] for line in logs] == ["graphiql_from_cdn"]
    assert page.html.count('integrity="sha384-') == len(ASSETS)
    assert page.html.count('crossorigin="anonymous"') == len(ASSETS)
    for asset in ASSETS:
        assert f'"{assets.CDN}/{asset.package}@{asset.version}/{asset.file}"' in page.html
    policy = page.headers["content-security-policy"]
    assert f"script-src 'self' {assets.CDN}/;" in policy


def test_without_npm_set_up_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetsError, match="npm is not installed"):
        assets.install(tmp_path / "static")
    monkeypatch.setattr(assets, "installed", lambda: False)
    assert assets.main() == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "GraphiQL will come from a CDN: npm is not installed."


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_without_a_network_npm_gives_up_and_its_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(AssetsError, match=r"^npm failed: code ECONNREFUSED$"):
        assets.install(tmp_path / "static", seconds=30)


def test_its_data_cannot_end_its_script(tmp_path: Path) -> None:
    evil = "{ a } # </script><script>alert(1)</script><!--"
    page = GraphiQL(token="eg_token", examples=[Example(evil)], static=tmp_path)
    assert "alert(1)</script>" not in page.html_with_token
    config = config_of(page.html_with_token)
    assert config["token"] == "eg_token"
    assert config["examples"] == [{"query": evil, "variables": "{}"}]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.query.splitlines()[1])
def test_the_examples_are_of_the_schema(example: Example) -> None:
    documents = Documents(build_schema()._schema, Limits())
    prepared = documents.prepare(example.query)
    assert prepared.errors == ()
    [operation] = prepared.operations.values()
    variables = json.loads(example.variables)
    assert operation.cost.evaluate(variables) <= 10_000
    assert documents.prepare(LOOKUP).errors == ()


async def test_the_token_is_for_names_of_this_machine_alone(make_settings: MakeSettings) -> None:
    settings = make_settings(engram_environment="development", host="192.0.2.7")
    app = create_app(settings, schema=edge_schema, token="eg_token")
    async with serving(app) as served:

        async def token_at(host: str) -> object:
            page = await served.client.get("/graphql", headers=HTML | {"host": host})
            assert page.status_code == 200
            return config_of(page.text)["token"]

        own = ("localhost", "LOCALHOST:8000", f"127.0.0.1:{served.port}", "[::1]:8000", "192.0.2.7")
        for host in own:
            assert await token_at(host) == "eg_token", host
        for host in ("evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", "[::1", ""):
            assert await token_at(host) is None, host
