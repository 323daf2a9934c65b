# SPDX-License-Identifier: Apache-2.0
"""The button to the report: where it leads, and its way through Airflow's own machinery."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, XCom
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from lucidworks_provider.errors import InputError
from lucidworks_provider.get_provider_info import get_provider_info
from lucidworks_provider.links import LucidworksReportLink, LucidworksResultLink, push_report, report_address

ADDRESS = "https://reports.example.com/catalogue/report.html"


@pytest.mark.parametrize(
    ("output", "report_url", "address"),
    [
        ("s3://bucket/chunks", "https://reports.example.com/catalogue", ADDRESS),
        ("s3://bucket/chunks", " https://reports.example.com/catalogue/ ", ADDRESS),
        ("file:///data/chunks", "http://host:8080", "http://host:8080/report.html"),
        # A signed address, and one that a page took from its address bar.
        ("s3://b/c", "https://host/c?sig=a%2Fb#top", "https://host/c/report.html?sig=a%2Fb"),
        ("https://host/chunks/", None, "https://host/chunks/report.html"),
        ("https://conn_id@host/chunks", None, "https://host/chunks/report.html"),
        ("https://me:secret@host/chunks", "", "https://host/chunks/report.html"),
        ("s3://bucket/chunks", None, ""),
        ("file:///data/chunks", "", ""),
        ("/data/chunks", "  ", ""),
        ("https://[broken/chunks", None, ""),
    ],
)
def test_where_it_leads(output: str, report_url: str | None, address: str) -> None:
    assert report_address(output, report_url) == address


@pytest.mark.parametrize(
    "report_url",
    ["javascript:alert(1)", "s3://bucket/chunks", "reports.example.com", "https://", "//host", 7],
)
def test_what_no_browser_opens(report_url: Any) -> None:
    with pytest.raises(InputError, match=r"report_url is .*; give the http"):
        report_address("s3://bucket/chunks", report_url)


class Chunking(BaseOperator):
    """As the operator of corpora does it."""

    operator_extra_links = (LucidworksReportLink(),)

    def execute(self, context: Any) -> None:
        push_report(context, "s3://bucket/chunks", "https://reports.example.com/catalogue")


@pytest.fixture
def xcoms(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[Any, ...], Any]:
    """Airflow's database of XComs, as far as a task sees it."""
    rows: dict[tuple[Any, ...], Any] = {}
    monkeypatch.setattr(XCom, "get_value", lambda *, ti_key, key, **_: rows.get((*where(ti_key), key)))
    return rows


def where(ti: Any) -> tuple[Any, ...]:
    return (ti.dag_id, ti.task_id, ti.run_id, ti.map_index)


def instance(task: BaseOperator, xcoms: dict[tuple[Any, ...], Any], map_index: int = -1) -> Any:
    ti = SimpleNamespace(task=task, dag_id="catalogue", task_id=task.task_id, run_id="tonight")
    ti.map_index = map_index
    ti.xcom_push = lambda key, value: xcoms.update({(*where(ti), key): value})
    return ti


def test_there_is_no_button_before_the_report(xcoms: dict[tuple[Any, ...], Any]) -> None:
    task = Chunking(task_id="chunk")
    link = LucidworksReportLink()
    first = instance(task, xcoms, 0)
    assert link.get_link(task, ti_key=first) == ""
    task.execute({"ti": first})
    assert link.get_link(task, ti_key=first) == ADDRESS
    # A mapped task has one for each index.
    other = Chunking(task_id="chunk")
    assert link.get_link(other, ti_key=instance(other, xcoms, 1)) == ""


@pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="the webserver of Airflow 2 has only the XCom")
def test_a_link_reads_no_xcom(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not exist is an error in the log of the task's supervisor."""

    def refuse(**_: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(XCom, "get_value", refuse)
    for link in (LucidworksReportLink(), LucidworksResultLink()):
        assert link.get_link(Chunking(task_id="chunk"), ti_key=SimpleNamespace()) == ""


@pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="Airflow 3 does not ask this package for what was pushed")
@pytest.mark.parametrize("pushed", ["javascript:alert(1)", "data:text/html,x", "", None, 7, {"url": ADDRESS}])
def test_what_others_push_makes_no_script(xcoms: dict[tuple[Any, ...], Any], pushed: Any) -> None:
    task = Chunking(task_id="chunk")
    ti = instance(task, xcoms)
    ti.xcom_push(key=LucidworksReportLink.xcom_key, value=pushed)
    assert LucidworksReportLink().get_link(task, ti_key=ti) == ""


def test_nothing_is_pushed_where_no_browser_gets_to(xcoms: dict[tuple[Any, ...], Any]) -> None:
    ti = instance(Chunking(task_id="chunk"), xcoms)
    push_report({"ti": ti}, "s3://bucket/chunks", None)
    assert xcoms == {}


def test_airflow_knows_them() -> None:
    from airflow.providers_manager import ProvidersManager

    links = (LucidworksReportLink, LucidworksResultLink)
    paths = [f"{link.__module__}.{link.__name__}" for link in links]
    assert get_provider_info()["extra-links"] == paths
    # Airflow has imported them to be sure that they are there.
    assert set(paths) <= set(ProvidersManager().extra_links_class_names)


def through_the_database(dag: DAG) -> Any:
    """The DAG as scheduler and API server read it."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialized
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialized
    return Serialized.from_dict(Serialized.to_dict(dag))


@pytest.mark.parametrize("mapped", [False, True])
def test_the_server_reads_what_the_task_has_pushed(mapped: bool) -> None:
    with DAG("catalogue", schedule=None) as dag:
        if mapped:
            Chunking.partial(task_id="chunk").expand(doc_md=["a", "b"])
        else:
            Chunking(task_id="chunk")
    task = through_the_database(dag).get_task("chunk")
    assert list(task.extra_links) == ["Report"]
    [link] = task.operator_extra_links
    # Airflow 3 reads the XCom of this key, with a class of its own; before, it makes our class again.
    assert link.xcom_key == "lucidworks_report"


def test_the_end_of_a_task(xcoms: dict[tuple[Any, ...], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 3 asks each link when a task ends, and stores what it says under the link's own key."""
    runner = pytest.importorskip("airflow.sdk.execution_time.task_runner")
    from airflow.sdk import TaskInstanceState

    monkeypatch.setattr(runner, "_xcom_push_to_db", lambda ti, key, value: ti.xcom_push(key, value))
    task = Chunking(task_id="chunk")
    ti = instance(task, xcoms)
    ti.start_date = ti.end_date = None
    task.execute({"ti": ti})
    context = {"ti": ti, "task": task}
    runner.finalize(ti, TaskInstanceState.SUCCESS, context, logging.getLogger(__name__))
    assert list(xcoms.values()) == [ADDRESS]
