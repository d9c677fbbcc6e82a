"""What of the documents is generated is what the code says, and would be told if it were not."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import build
from trio_tsconnect.hooks import HOOKS, TRANSITIONS, State

DOCS = Path(__file__).parents[2] / "docs"


def test_the_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check"]) == 0, capsys.readouterr().out


def test_a_page_that_is_not_is_told_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "transaction.md"
    page.write_text((DOCS / "transaction.md").read_text().replace("read_request", "read_requset"))
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "PAGES", ("transaction.md",))
    assert build.main(["--check"]) == 1
    assert capsys.readouterr().out == "docs/transaction.md is not what the code says: python docs/build.py\n"
    assert build.main([]) == 0
    assert build.main(["--check"]) == 0


def test_every_hook_is_in_the_reference_with_words_of_its_own() -> None:
    rows = build.hook_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(HOOKS)
    assert all(len(row.split("|")[2].strip()) > 20 for row in rows)


def test_every_state_is_explained_and_every_way_between_two_is_drawn_or_said() -> None:
    assert build.documented("State").keys() == {state.name for state in State}
    drawn = set(build.state_diagram().splitlines())
    for state, following in TRANSITIONS.items():
        for each in following:
            early = each is State.RELEASE and State.SEND_RESPONSE in following
            assert (f"    {state.value} --> {each.value}" in drawn) is not early


def test_what_the_engine_keeps_for_itself_is_not_offered_to_plugins() -> None:
    offered = [row.split("`")[1].partition("(")[0] for row in build.action_table().splitlines()[2:]]
    assert {"respond", "intercept", "transform_request", "transform_response", "read_request_body", "retry", "connect", "fetch"} == set(
        offered
    )


def test_every_option_of_every_plugin_is_explained() -> None:
    page = (DOCS / "plugins.md").read_text()
    for name in (
        "AuthRequest",
        "ErrorPages",
        "Prefetch",
        "Mirror",
        "Aggregate",
        "HeaderRewrite",
        "HealthCheck",
        "RateLimit",
        "RequestId",
        "BackgroundFetch",
    ):
        assert build.option_table(name) in page
        assert f'use = "trio_tsconnect.plugins:{name}"' in page or f'"trio_tsconnect.plugins:{name}"' in page


def test_code_of_a_tutorial_is_that_of_its_example() -> None:
    example = (DOCS.parent / "examples" / "five_plugins.py").read_text()
    for names in (["imports"], ["Private"], ["NoSniff", "Timings", "main"]):
        shown = build.example_parts("five_plugins.py", *names)
        assert shown.startswith("```python\n")
        for part in shown.removeprefix("```python\n").removesuffix("\n```").split("\n\n\n"):
            assert f"{part}\n" in example
    assert build.example_parts("llm_gateway.py", "MAX_PROMPT", "CLIENT").count('"""') == 4
