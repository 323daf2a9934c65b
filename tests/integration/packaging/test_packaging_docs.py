# SPDX-License-Identifier: Apache-2.0
"""The pages: nothing public is without one, no parameter without a line, links lead somewhere. Blocks: `pages`."""

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import lucidworks_provider
from lucidworks_provider.client import chunking, models, predictions, use_cases
from lucidworks_provider.get_provider_info import CONN_FIELDS, get_provider_info

ROOT = Path(lucidworks_provider.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
LINKING = [*PAGES, ROOT / "CHANGELOG.md"]
INFO = get_provider_info()
HOW_TO = [DOCS / "chunking.md", DOCS / "corpora.md", *sorted((DOCS / "operators").glob("*.md"))]
OPENAPI = ROOT / "tests" / "integration" / "contract" / "lucidworks-ai-openapi.yaml"


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def classes_of(kind: str) -> list[type]:
    """The public classes of a room, as the provider info lists them."""
    modules = [name for entry in INFO[kind] for name in entry["python-modules"]]
    return [
        one
        for name in modules
        for one in vars(import_module(name)).values()
        if inspect.isclass(one) and one.__module__ == name and not one.__name__.startswith("_")
    ]


OPERATORS = [*classes_of("operators"), *classes_of("sensors")]
DECORATORS = [f"@task.{entry['name']}" for entry in INFO["task-decorators"]]
HOOKS = [one.__name__ for one in classes_of("hooks")]
PUBLIC = [*(one.__name__ for one in [*OPERATORS, *classes_of("triggers")]), *HOOKS, *DECORATORS]


def is_operator(one: object, module: str) -> bool:
    ours = inspect.isclass(one) and one.__module__ == module
    return ours and one.__name__.startswith("Lucidworks") and one.__name__.endswith("Operator")


def test_there_are_operators_and_pages() -> None:
    assert {"LucidworksChunkOperator", "LucidworksDeploymentSensor", "LucidworksHook"} <= set(PUBLIC)
    # Each operator of the package is known to Airflow, and so to the tests below.
    told = {name for entry in INFO["operators"] for name in entry["python-modules"]}
    files = (ROOT / "lucidworks_provider" / "operators").glob("*.py")
    there = {f"lucidworks_provider.operators.{file.stem}" for file in files}
    public = {
        name for name in there if any(is_operator(one, name) for one in vars(import_module(name)).values())
    }
    assert told == public
    assert "docs/operators/prediction.md" in map(named, PAGES)


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_a_page(name: str) -> None:
    assert [path for path in PAGES if re.search(rf"{re.escape(name)}\b", path.read_text())]


@pytest.mark.parametrize("name", [*(one.__name__ for one in OPERATORS), *HOOKS, *DECORATORS])
def test_the_readme_names_it(name: str) -> None:
    assert re.search(rf"{re.escape(name)}\b", (ROOT / "README.md").read_text())


def test_the_reference_has_every_module() -> None:
    kinds = ("hooks", "operators", "sensors", "triggers")
    modules = {name for kind in kinds for entry in INFO[kind] for name in entry["python-modules"]}
    modules |= {entry["class-name"].rpartition(".")[0] for entry in INFO["task-decorators"]}
    listed = set(re.findall(r"^\.\. automodule:: (\S+)", (DOCS / "reference.md").read_text(), re.MULTILINE))
    assert modules - listed == set()


def parameters_of(cls: type) -> set[str]:
    """What its constructor and those of its bases take, as far as they are ours."""
    ours = [one for one in cls.__mro__ if one.__module__.startswith(f"{lucidworks_provider.__name__}.")]
    return {
        name
        for one in ours
        if "__init__" in vars(one)
        # Airflow wraps the constructors of operators.
        for name, parameter in inspect.signature(inspect.unwrap(vars(one)["__init__"])).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }


def described_in(cls: type) -> dict[str, str]:
    """The parameters in a docstring, with what is said about them."""
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.findall(r"^:param (\w+): (.*?)(?=^:|^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: " ".join(said.split()) for name, said in found}


@pytest.mark.parametrize("cls", [*OPERATORS, *classes_of("triggers")], ids=lambda cls: cls.__name__)
def test_every_parameter_is_described(cls: type) -> None:
    assert parameters_of(cls) - set(described_in(cls)) == set()


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda cls: cls.__name__)
def test_every_parameter_is_on_the_page(cls: type) -> None:
    pages = [text for path in HOW_TO if re.search(rf"\b{cls.__name__}\b", text := path.read_text())]
    missing = [{name for name in parameters_of(cls) if f"`{name}`" not in text} for text in pages]
    assert set() in missing, min(missing, key=len)


def test_included_lines_exist() -> None:
    block = r'^```\{literalinclude\} (\S+)\n:language: python\n:start-at: "(.+)"\n:end-before: "(.+)"\n```$'
    found = [(path, *one) for path in PAGES for one in re.findall(block, path.read_text(), re.MULTILINE)]
    assert len(found) == sum(path.read_text().count("```{literalinclude}") for path in PAGES) > 0
    for path, file, start, end in found:
        before, begin, rest = (path.parent / file).read_text().partition(start)
        assert begin, (file, start, before[:80])
        assert end in rest, (file, end)


def test_every_example_is_linked_from_its_row() -> None:
    text = (DOCS / "which_operator.md").read_text()
    examples = {path.name for path in (ROOT / "example_dags").glob("*.py")}
    assert set(re.findall(r"\]\(\.\./example_dags/(\w+\.py)\)", text)) == examples


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda cls: cls.__name__)
def test_what_is_templated_says_so(cls: Any) -> None:
    says = {name for name, said in described_in(cls).items() if said.endswith("(templated)")}
    assert says == set(cls.template_fields)


def test_the_readme_works_on_a_package_index() -> None:
    """An index has no other file of the repository, and the repository has no published address."""
    text = (ROOT / "README.md").read_text()
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
    assert re.findall(r"^\[[^\]]+\]:", text, re.MULTILINE) == []
    assert re.findall(r"(?:src|href)=", text) == []
    for page in re.findall(r"`(docs/[^`]+|[A-Z]+\.md)`", text):
        assert (ROOT / page).exists(), page


def test_docstrings_cite_no_page_that_a_wheel_does_not_have() -> None:
    package = Path(lucidworks_provider.__file__).parent
    cited = {
        f"{path.relative_to(package)}: {found}"
        for path in package.rglob("*.py")
        for found in re.findall(r"(?<![\w./-])docs/[\w/-]+\.md", path.read_text())
    }
    assert cited == set()


def examples_of(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", HOW_TO, ids=named)
def test_a_how_to_has_examples_that_are_dags(path: Path) -> None:
    assert [code for code in examples_of(path) if "@dag(" in code]


def test_the_hooks_page_has_every_endpoint() -> None:
    listed = re.findall(r"^\| `(GET|POST) (/\S+)`", (DOCS / "hook.md").read_text(), re.MULTILINE)
    patterns = [(method, re.sub(r"\{\w+\}", "[^/]+", path)) for method, path in listed]
    assert len(patterns) == 15
    for path, operations in yaml.safe_load(OPENAPI.read_text())["paths"].items():
        # DELETE has one reading or another, and a row of its own; no page documents that of a model.
        for method in {"GET", "POST"} & {one.upper() for one in operations}:
            assert any(method == one and re.fullmatch(known, path) for one, known in patterns), path


def test_the_hooks_page_has_every_call() -> None:
    page = (DOCS / "hook.md").read_text()
    calls = {
        name
        for module in (chunking, models, predictions, use_cases)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and re.match(r"Call\[(?!T\])", function.__annotations__["return"])
        # What begins so is another form of a call that is named.
        and not (function.__doc__ or "").startswith(":func:")
    }
    assert {"predict", "delete_deployment", "list_use_cases"} <= calls
    assert {name for name in calls if f"`{name}`" not in page} == set()


def test_every_field_of_the_connection_is_described() -> None:
    page = (DOCS / "connection.md").read_text()
    assert [name for name in CONN_FIELDS if f"`{name}`" not in page] == []


def prose_of(path: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


# Dotted names that begin as a module of ours does.
OTHER_NAMES = {
    *("delta.deletedFileRetentionDuration", "delta.logRetentionDuration", "emulator.log"),
    *("storage.objects.create", "storage.objects.delete"),
}
# Files that a page has its reader write.
FILES_OF_USERS = {
    "nightly.py",
    "dags/catalogue.py",
    "tests/test_catalogue.py",
    "tests/unit/test_unit_translation.py",
}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=named)
def test_names_of_modules_and_their_contents_resolve(path: Path) -> None:
    package = Path(lucidworks_provider.__file__).parent
    begins = {file.stem for file in package.iterdir() if file.stem.isidentifier()}
    for name in re.findall(r"`(\w+(?:\.\w+)+)`", prose_of(path)):
        if name.endswith((".py", ".md")) or name in OTHER_NAMES:
            continue
        within = name.removeprefix("lucidworks_provider.")
        if within.partition(".")[0] in begins:
            assert pkgutil.resolve_name(f"lucidworks_provider.{within}") is not None
    for file in re.findall(r"`((?:\w+/)*\w+\.py)`", prose_of(path)):
        parents = (ROOT, package, ROOT / "tests")
        assert file in FILES_OF_USERS or any((parent / file).exists() for parent in parents), file


def test_each_benchmark_exists_and_is_run_by_make_bench() -> None:
    page, makefile = (DOCS / "benchmarks.md").read_text(), (ROOT / "Makefile").read_text()
    bench = makefile.partition("\nbench:")[2].partition("\n\n")[0]
    modules = set(re.findall(r"python\s+-m\s+((?:benchmarks|tests)\.[\w.]+)", page))
    assert len(modules) > 20
    for name in modules:
        file = ROOT / name.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), name
    ours = {name for name in modules if name.startswith("benchmarks.")}
    assert ours == set(re.findall(r"-m (benchmarks\.\w+)", bench))
    tests = re.findall(r"tests/[\w/.]+", " ".join(re.findall(r"`pytest\s([^`]+)`", page)))
    assert len(tests) > 5
    assert [one for one in tests if not (ROOT / one).exists()] == []
    assert set(re.findall(r"`make ([\w-]+)`", page)) <= set(
        re.findall(r"^([\w-]+):.*##", makefile, re.MULTILINE)
    )


def figures_of(text: str) -> set[str]:
    """Numbers of two digits or more, or with a decimal point; thousands without commas."""
    return set(re.findall(r"(?<![\w.])\d+\.\d+|(?<![\w.])\d{2,}", re.sub(r"(?<=\d),(?=\d{3})", "", text)))


def test_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    table = (ROOT / "README.md").read_text().partition("## Measured")[2].partition("\n## ")[0]
    figures = figures_of("\n".join(line for line in table.splitlines() if line.startswith("|")))
    assert {"1.43", "6.7", "1280", "100000"} <= figures
    assert figures - figures_of((DOCS / "benchmarks.md").read_text()) == set()


def anchors_of(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKING, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target
