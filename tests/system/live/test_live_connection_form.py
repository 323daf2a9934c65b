# SPDX-License-Identifier: Apache-2.0
"""
The connection form in a browser, against a real API server: seen, saved, opened again, changed, and tested.

What the form must show is asked of the provider's own description, not written down here again. With ``SCREENSHOTS``
in the environment the pictures of the pages go to that folder (``make screenshots``).
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from dev.airflow_stack import AirflowStack
from dev.browser import browser
from dev.demo import Emulator
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.get_provider_info import get_provider_info, ui_field_behaviour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.live

[TYPE] = get_provider_info()["connection-types"]
FIELDS: dict[str, dict[str, Any]] = TYPE["conn-fields"]
BEHAVIOUR = ui_field_behaviour(version("apache-airflow"))
STANDARD = {"description", "host", "login", "password", "port", "schema"}

CLIENT, SECRET = "form-client", "s3cr/et@%+:x"
LARGEST = 100_000  # bytes of a picture

# What is in the groups of the form: one for each field, by its name.
_SHOWN = """groups => Object.fromEntries(groups.flatMap(group => {
    const label = group.querySelector(":scope > * > label"), input = group.querySelector("[name]");
    return label && input ? [[input.name.replace("element_", ""), {
        label: label.innerText.trim(), text: group.innerText, placeholder: input.placeholder || null,
        value: input.type == "checkbox" ? input.checked : input.value, required: input.required,
    }]] : [];
}))"""


@dataclass
class Ui:
    """Airflow's page about connections, and the API behind it."""

    page: Page
    airflow: AirflowStack
    emulator: Emulator
    pictures: Path

    def add(self) -> Locator:
        """An empty form of our type."""
        self.page.goto(f"{self.airflow.url}/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        form = self.page.get_by_role("dialog")
        form.get_by_role("combobox").first.fill(TYPE["hook-name"])
        self.page.get_by_role("option", name=TYPE["hook-name"], exact=True).click()
        form.locator("[name=login]").wait_for()
        return form

    def edit(self) -> Locator:
        """The form of the connection that is there."""
        self.page.goto(f"{self.airflow.url}/connections")
        self.row().get_by_role("button", name="Edit Connection").click()
        form = self.page.get_by_role("dialog")
        form.locator("[name=login]").wait_for()
        return form

    def row(self) -> Locator:
        """Of the connection in the list."""
        return self.page.get_by_role("row").filter(
            has=self.page.get_by_role("cell", name=DEFAULT_CONN_ID, exact=True)
        )

    def create(self, secret: str, **standard: str) -> None:
        """A connection to the emulator, as a person makes one."""
        form = self.add()
        form.locator("[name=connection_id]").fill(DEFAULT_CONN_ID)
        filled = {"host": "emulated-app", "login": CLIENT, "password": secret} | standard
        for name, value in filled.items():
            form.locator(f"[name={name}]").fill(value)
        section(form, "Extra Fields")
        for name in ("auth_url", "application_url", "models_url"):
            form.locator(f"[name=element_{name}]").fill(self.emulator.url)
        form.locator("[name=element_customer_id]").fill("demo-customer")
        form.locator("[name=element_timeout]").fill("7")
        form.locator("[data-scope=switch][data-part=control]").click()
        self.save(form)

    def save(self, form: Locator) -> None:
        """Wait until the form says that it is saved."""
        form.get_by_role("button", name="Save").click()
        form.wait_for(state="hidden")

    def test(self) -> tuple[str, str]:
        """The colour of the icon and the words that appear."""
        self.page.goto(f"{self.airflow.url}/connections")
        with self.page.expect_response("**/connections/test"):
            self.row().get_by_role("button", name="Test Connection").click()
        toast = self.page.get_by_role("status").filter(has_text="Test Connection")
        toast.wait_for()
        icon = self.row().get_by_role("button", name="Test Connection").locator("svg")
        return icon.get_attribute("color") or "", toast.inner_text()

    def stored(self) -> dict[str, Any]:
        """The row of the database, deciphered."""
        names = ("login", "password", "host", "port", "schema", "description", "extra")
        with closing(sqlite3.connect(self.airflow.config.database)) as database:
            query = f"SELECT {', '.join(names)} FROM connection WHERE conn_id = ?"  # noqa: S608
            found = dict(zip(names, database.execute(query, (DEFAULT_CONN_ID,)).fetchone(), strict=True))
        key = Fernet(self.airflow.config.fernet_key)
        found |= {name: key.decrypt(found[name].encode()).decode() for name in ("password", "extra")}
        return found | {"extra": json.loads(found["extra"])}

    def picture(self, name: str) -> None:
        """What is on the screen, for a page of the documentation."""
        self.page.mouse.move(0, 0)
        path = self.pictures / f"{name}.png"
        self.page.screenshot(path=path, animations="disabled", caret="hide")
        assert path.stat().st_size < LARGEST


@pytest.fixture
def ui(browsed: Ui) -> Ui:
    """Without the connection of an earlier test."""
    with closing(sqlite3.connect(browsed.airflow.config.database, timeout=60)) as database, database:
        database.execute("DELETE FROM connection")
    return browsed


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    root = tmp_path_factory.mktemp("form")
    (root / "dags").mkdir()
    pictures = Path(os.environ.get("SCREENSHOTS", root)).resolve()
    pictures.mkdir(parents=True, exist_ok=True)
    airflow = AirflowStack(root / "home", root / "dags")
    airflow.commands = {"api-server": airflow.commands["api-server"]}
    with (
        browser(root / "profile", height=880) as context,
        Emulator(root / "emulator.log", "--client", f"{CLIENT}:{SECRET}") as emulator,
        airflow,
    ):
        context.set_default_timeout(30_000)
        yield Ui(context.new_page(), airflow, emulator, pictures)


def section(form: Locator, name: str) -> Locator:
    """Of the form, unfolded."""
    button = form.get_by_role("button", name=name, exact=True)
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    # Not by its role and name: Airflow's id has a space in it.
    found = form.locator(f'[id="{button.get_attribute("aria-controls")}"]')
    found.locator("[role=group]").first.wait_for()
    return found


def shown(form: Locator, name: str) -> dict[str, dict[str, Any]]:
    """What the fields of a section look like, by their names."""
    return dict(section(form, name).locator("[role=group]").evaluate_all(_SHOWN))


def test_the_form_shows_what_the_provider_describes(ui: Ui) -> None:
    form = ui.add()
    ui.picture("connection-form")
    standard = shown(form, "Standard Fields")
    assert set(standard) == STANDARD - set(BEHAVIOUR["hidden-fields"])
    for name, label in BEHAVIOUR["relabeling"].items():
        assert standard[name]["label"] == label
        assert standard[name]["placeholder"] == BEHAVIOUR["placeholders"][name]
    extra = shown(form, "Extra Fields")
    assert list(extra) == list(FIELDS)
    for name, field in FIELDS.items():
        assert extra[name]["label"] == field["label"]  # a required one has a star
        assert field["description"] in extra[name]["text"]
        default = field["schema"].get("default", "")
        assert extra[name]["value"] == (default if isinstance(default, bool) else str(default))
    assert not any(one["required"] for one in [*standard.values(), *extra.values()])
    form.get_by_role("button", name="Extra Fields", exact=True).evaluate("one => one.scrollIntoView()")
    ui.picture("connection-form-extra")


def test_a_connection_is_saved_opened_again_and_changed(ui: Ui) -> None:
    ui.create(SECRET)
    emulated = dict.fromkeys(("auth_url", "application_url", "models_url"), ui.emulator.url)
    defaults = {name: field["schema"].get("default") for name, field in FIELDS.items()}
    stored = {
        **{"login": CLIENT, "password": SECRET, "host": "emulated-app"},
        **{"port": None, "schema": None, "description": None},
        "extra": defaults | emulated | {"customer_id": "demo-customer", "timeout": 7, "verify": False},
    }
    assert ui.stored() == stored

    form = ui.edit()
    opened = shown(form, "Standard Fields") | shown(form, "Extra Fields")
    assert {name: one["value"] for name, one in opened.items() if name in STANDARD} == {
        **{"host": "emulated-app", "login": CLIENT, "password": "***", "description": ""},
        **({} if "port" in BEHAVIOUR["hidden-fields"] else {"port": ""}),
    }
    assert {name: opened[name]["value"] or None for name in FIELDS} == {
        name: str(value) if name == "timeout" else value or None for name, value in stored["extra"].items()
    }
    assert SECRET not in ui.page.content()

    form.locator("[name=element_timeout]").fill("9")
    ui.save(form)
    stored["extra"]["timeout"] = 9
    assert ui.stored() == stored

    form = ui.edit()
    section(form, "Standard Fields")
    form.locator("[name=password]").fill("another+" + SECRET)
    section(form, "Extra Fields")
    form.locator("[name=element_auth_server_id]").fill("")
    ui.save(form)
    seen = ui.stored()
    assert seen["extra"].pop("auth_server_id") in {None, ""}
    del stored["extra"]["auth_server_id"]
    assert seen == stored | {"password": "another+" + SECRET}


PORT = {} if "port" in BEHAVIOUR["hidden-fields"] else {"port": "0"}


def test_the_button_with_the_right_secret(ui: Ui) -> None:
    ui.create(SECRET, **PORT)
    colour, words = ui.test()
    ui.picture("connection-test-right")
    assert (colour, words.splitlines()[0]) == ("green", "Test Connection Successful")
    for scope in ("machinelearning.predict", "machinelearning.model"):
        assert re.search(rf"\({ui.emulator.url}\), scope {scope}: works", words)
    assert SECRET not in ui.page.content()


def test_the_button_with_a_wrong_secret(ui: Ui) -> None:
    ui.create("no" + SECRET, **PORT)
    colour, words = ui.test()
    ui.picture("connection-test-wrong")
    assert (colour, words.splitlines()[0]) == ("red", "Test Connection Failed")
    assert "The client id or the client secret is wrong. Check Client ID and Client Secret." in words
    assert SECRET not in ui.page.content()


def test_the_button_after_a_change(ui: Ui) -> None:
    ui.create("no" + SECRET, **PORT)
    form = ui.edit()
    section(form, "Standard Fields")
    form.locator("[name=password]").fill(SECRET)
    ui.save(form)
    assert ui.test()[0] == "green"


@pytest.mark.skipif(not PORT, reason="this Airflow tests connections without a port")
def test_the_button_without_a_port(ui: Ui) -> None:
    """Airflow refuses by itself; when it no longer does, the port can be hidden from that version on."""
    asked = len(ui.emulator.get("log"))
    ui.create(SECRET)
    colour, words = ui.test()
    assert (colour, words.splitlines()) == ("red", ["Test Connection Failed", "Bad Request"])
    assert len(ui.emulator.get("log")) == asked
