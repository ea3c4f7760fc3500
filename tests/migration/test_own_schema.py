"""The coordinator's tables in a schema of their own, as new deployments have them; nobody's tables are left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import ProgrammingError

from segue import outbox
from segue.client import Client
from segue.errors import ConfigError, NotFound
from segue.migrations import check, current, head, sql, upgrade
from segue.migrations.runner import FIRST_TABLES, TablesElsewhere
from segue.settings import load
from segue.settings.deployment import database_of
from segue.topics.names import TopicNames


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()


def in_schema(url: str, schema: str = "segue") -> str:
    environment = {"SEGUE_COORDINATOR_DATABASE": url, "SEGUE_COORDINATOR_SCHEMA": schema}
    return database_of(load(environment=environment).settings)


def test_an_upgrade_makes_the_schema_and_the_tables_in_it_and_runs_twice(engine: Engine, postgres_url: str) -> None:
    outbox.create_all(engine)  # a service shares the database
    before = inspect(engine).get_table_names()
    for _ in range(2):
        upgrade(in_schema(postgres_url))
    assert (current(in_schema(postgres_url)), check(in_schema(postgres_url))) == (head(), [])
    assert set(inspect(engine).get_table_names("segue")) >= FIRST_TABLES
    assert set(inspect(engine).get_view_names("segue")) == {"saga_readable", "saga_event_readable"}
    assert inspect(engine).get_table_names() == before


def test_tables_that_are_there_are_not_left_behind_for_empty_ones(engine: Engine, postgres_url: str) -> None:
    upgrade(postgres_url)
    with pytest.raises(TablesElsewhere, match=r"are in schema public .* set coordinator\.schema = 'public'"):
        upgrade(in_schema(postgres_url))
    assert "segue" not in inspect(engine).get_schema_names()
    upgrade(in_schema(postgres_url, "public"))
    assert check(in_schema(postgres_url, "public")) == []


def test_who_forgets_the_schema_is_told_where_the_tables_are(engine: Engine, postgres_url: str) -> None:
    upgrade(in_schema(postgres_url))
    with pytest.raises(TablesElsewhere, match=r"are in schema segue .* set coordinator\.schema = 'segue'"):
        upgrade(postgres_url)
    [sentence] = check(postgres_url)
    assert sentence.endswith("there are some in another schema (coordinator.schema = 'segue').")
    assert inspect(engine).get_table_names() == []


def test_tables_can_be_moved_by_hand_into_a_schema_of_their_own(engine: Engine, postgres_url: str) -> None:
    upgrade(postgres_url)
    found = inspect(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA segue"))
        for table in found.get_table_names():
            connection.execute(text(f"ALTER TABLE {table} SET SCHEMA segue"))
        for view in found.get_view_names():
            connection.execute(text(f"ALTER VIEW {view} SET SCHEMA segue"))
    upgrade(in_schema(postgres_url))
    assert check(in_schema(postgres_url)) == []
    with engine.connect() as connection:
        assert list(connection.scalars(text("SELECT id FROM segue.saga_readable"))) == []


def test_a_second_coordinator_s_schema_is_made_by_hand(engine: Engine, postgres_url: str) -> None:
    upgrade(in_schema(postgres_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA other"))
    upgrade(in_schema(postgres_url, "other"))
    assert set(inspect(engine).get_table_names("other")) >= FIRST_TABLES


def test_the_statements_for_a_person_make_the_same(engine: Engine, postgres_url: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(sql(in_schema(postgres_url)).replace("%", "%%"))
    assert check(in_schema(postgres_url)) == []


def test_a_role_without_the_right_to_make_it_needs_it_made(engine: Engine, postgres_url: str) -> None:
    role = f"upgrader_{engine.url.database}"[:60]
    theirs = engine.url.set(username=role).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f'CREATE ROLE "{role}" LOGIN'))
    try:
        with pytest.raises(ProgrammingError, match="permission denied"):
            upgrade(in_schema(theirs))
        with engine.begin() as connection:
            connection.execute(text(f'CREATE SCHEMA segue AUTHORIZATION "{role}"'))
        upgrade(in_schema(theirs))
        assert check(in_schema(theirs)) == []
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}" CASCADE'))
            connection.execute(text(f'DROP ROLE "{role}"'))


@pytest.mark.parametrize("url", ["sqlite:///x.db", "postgresql+psycopg://h/d"])
def test_no_schema_leaves_the_url_as_it_is(url: str) -> None:
    assert in_schema(url, "") == url
    assert in_schema("sqlite:///x.db") == "sqlite:///x.db", "SQLite has none"


def test_the_url_s_own_options_are_kept_and_its_search_path_is_not_overruled() -> None:
    url = "postgresql+psycopg://u:p@h/d?options=-cstatement_timeout%3D5s"
    assert in_schema(url) == f"{url}+-csearch_path%3Dsegue"
    with pytest.raises(ConfigError, match=r"but coordinator\.database says search_path=mine; set one"):
        in_schema("postgresql+psycopg://h/d?options=-csearch_path%3Dmine")
    assert in_schema("postgresql+psycopg://h/d?options=-csearch_path%3Dmine", "").endswith("mine")


def test_a_name_that_would_need_quotes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"coordinator\.schema"):
        in_schema("postgresql+psycopg://h/d", 'a"b')


def test_a_client_that_is_given_no_schema_is_told_of_it(postgres_url: str) -> None:
    upgrade(in_schema(postgres_url))
    client = Client(TopicNames(coordinator="shop"), database=postgres_url)
    with client, pytest.raises(ConfigError, match=r"in the schema that `coordinator\.schema` names"):
        client.handle("order", "order-1").status()
    client = Client(TopicNames(coordinator="shop"), database=in_schema(postgres_url))
    with client, pytest.raises(NotFound):
        client.handle("order", "order-1").status()
