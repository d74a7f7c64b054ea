"""A verdict for CI servers: JUnit XML and Markdown, of one run, of repeats, and against a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from backpressure.cli.commands import pace
from backpressure.cli.run_outcome import EXIT_CODES, Judgement
from backpressure.cli.verdict_files import JUnitFile, MarkdownFile, junit_error, markdown_error, to_junit, to_markdown
from backpressure.errors import ConfigError
from backpressure.experiments.past_runs import baseline
from backpressure.experiments.regression import Difference, differences, parse_share, told
from backpressure.experiments.summary import Depth, Held, MessageTotals, Percentiles, Summary, Verdict


def summary(verdict: Verdict = "passed", *held: bool, **changes: Any) -> Summary:
    spreads = ("wait_ms", "end_to_end_ms", "confirm_ms", "signal_age_ms", "tick_lateness_ms")
    values: dict[str, Any] = {
        "scenario": "s",
        "strategy": "pace",
        "broker": "b",
        "broker_version": "1",
        "started_at": "2026-01-01T00:00:00+00:00",
        "duration_s": 1.5,
        "verdict": verdict,
        "sentence": f"{verdict}: lost 1, expected 0",
        "expectations": [Held(metric="lost", op="==", limit=0, value=float(not ok), held=ok) for ok in held],
        "totals": MessageTotals(**dict.fromkeys(MessageTotals.model_fields, 0)),
        "utilisation": None,
        "depth": Depth(),
        "fairness_jain": None,
        "phases": [],
        "processes": [],
    }
    return Summary(**(values | {name: Percentiles() for name in spreads} | changes))


def waiting(p99: float) -> Summary:
    return summary(wait_ms=Percentiles(p99=p99))


def suite(document: str) -> ET.Element:
    return ET.fromstring(document.split("\n", 1)[1])


def cases(document: str) -> list[ET.Element]:
    return list(suite(document).iter("testcase"))


def test_a_verdict_as_junit_has_a_case_with_the_measured_value_for_each_expectation() -> None:
    document = to_junit(Judgement([summary("failed", True, False)]))
    assert [suite(document).get(name) for name in ("tests", "failures", "errors")] == ["2", "1", "0"]
    assert [case.get("name") for case in cases(document)] == ["lost == 0", "lost == 0"]
    assert [case.find("failure") is not None for case in cases(document)] == [False, True]
    assert [case.findtext("system-out") for case in cases(document)] == ["measured: 0", "measured: 1"]
    said = {p.get("name"): p.get("value") for p in suite(document).findall("properties/property")}
    assert said == {"verdict": "failed", "sentence": "failed: lost 1, expected 0"}


def test_a_run_that_did_not_finish_is_an_error_in_junit() -> None:
    document = to_junit(Judgement([summary("interrupted", True)], "it was asked to end"))
    assert [suite(document).get(name) for name in ("tests", "failures", "errors")] == ["2", "0", "1"]
    assert [error.get("message") for error in suite(document).iter("error")] == ["it was asked to end"]


def test_a_figure_that_was_not_measured_is_named_so_in_junit() -> None:
    unknown = Held(metric="utilisation", op=">=", limit=0.9, value=None, held=False)
    document = to_junit(Judgement([summary("failed", expectations=[unknown])]))
    [failure] = suite(document).iter("failure")
    assert failure.get("message") == "utilisation was not measured"


def test_a_run_without_a_summary_is_one_error_in_junit_whatever_its_last_output() -> None:
    document = junit_error("s", "no broker:\n\x1b[31m<away>")
    assert [suite(document).get(name) for name in ("tests", "errors")] == ["1", "1"]
    assert [error.get("message") for error in suite(document).iter("error")] == ["no broker:\n?[31m<away>"]


def test_repeats_are_told_apart_in_junit_and_the_one_that_failed_decides() -> None:
    outcome = Judgement([summary("passed", True), summary("failed", False)])
    assert [case.get("classname") for case in cases(to_junit(outcome))] == ["pace.s.run-1", "pace.s.run-2"]
    assert outcome.verdict == "failed"
    assert outcome.sentence == "failed: run 2 of 2: lost 1, expected 0"


def test_markdown_opens_with_verdict_and_sentence_and_has_every_expectation() -> None:
    text = to_markdown(Judgement([summary("failed", True, False)]))
    assert text.startswith("### ❌ failed: s\n\n**lost 1, expected 0**\n")
    assert "| ✔ | `lost` | `== 0` | 0 |\n| ✘ | `lost` | `== 0` | 1 |" in text
    counts = "offered | confirmed | processed | dead-lettered | left in queue | duplicates | refused | discarded | lost"
    assert f"| {counts} |" in text


def test_markdown_says_how_figures_of_strangers_were_obtained() -> None:
    text = to_markdown(Judgement([summary(sources={"processed": "acknowledgements | of the broker"})]))
    assert "<summary>How each figure was obtained</summary>" in text
    assert "| `processed` | acknowledgements \\| of the broker |" in text
    assert "<details>" not in to_markdown(Judgement([summary()]))


def test_nothing_from_outside_becomes_markup_in_markdown() -> None:
    text = markdown_error("s", "<img src=x>\n| a | `b` | *c* [d](e)")
    assert text == "### ❌ error: s\n\n**\\<img src=x\\> \\| a \\| \\`b\\` \\| \\*c\\* \\[d\\](e)**\n"


def test_a_file_tells_of_this_run_from_the_start_and_keeps_what_github_has_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.md"
    path.write_text("# Another step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    file = MarkdownFile(path, "steps")
    assert path.read_text() == f"# Another step\n\n{markdown_error('steps', 'the run did not come to its end')}"
    file.tell(Judgement([summary("passed", True)]))
    file.tell_error("too late to matter")
    assert path.read_text().startswith("# Another step\n\n### ✅ passed: s\n")
    assert path.read_text().count("###") == 1
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    MarkdownFile(path, "steps").tell_error("no broker")
    assert path.read_text() == markdown_error("steps", "no broker")


@pytest.mark.parametrize("kind", [JUnitFile, MarkdownFile])
def test_a_file_that_cannot_be_written_is_a_mistake_before_anything_starts(
    kind: type[JUnitFile | MarkdownFile], tmp_path: Path
) -> None:
    for path in (tmp_path / "missing" / "file", tmp_path):
        with pytest.raises(ConfigError, match=kind.option):
            kind(path, "s")


# --- against a baseline -----------------------------------------------------------------------------------------------


def of(found: list[Difference], metric: str) -> Difference:
    return next(difference for difference in found if difference.metric == metric)


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        ([100.0], [105.0], "same"),  # within 10 %
        ([100.0], [120.0], "worse"),
        ([100.0], [80.0], "better"),
        ([20.0], [29.0], "same"),  # within the resolution of a p99
        ([90.0, 100.0, 130.0], [125.0], "same"),  # the repeats of the baseline differ by more
        ([100.0, 101.0, 99.0], [125.0, 124.0, 126.0], "worse"),
    ],
)
def test_a_difference_counts_beyond_the_allowed_share_and_beyond_noise(
    before: list[float], after: list[float], direction: str
) -> None:
    found = differences([waiting(p99) for p99 in before], [waiting(p99) for p99 in after])
    assert of(found, "wait_ms.p99").direction == direction


def test_more_is_better_for_capacity_used_and_one_lost_message_is_worse() -> None:
    totals = summary().totals
    before = summary(utilisation=0.9)
    after = summary(utilisation=0.5, totals=totals.model_copy(update={"lost": 1}))
    found = differences([before], [after])
    assert (of(found, "utilisation").direction, of(found, "totals.lost").direction) == ("worse", "worse")
    assert of(differences([after], [before]), "utilisation").direction == "better"


def test_a_figure_that_is_no_longer_measured_is_worse_and_a_new_one_is_not_compared() -> None:
    gone = differences([waiting(20.0)], [summary()])
    assert of(gone, "wait_ms.p99").direction == "worse"
    assert told(of(gone, "wait_ms.p99")) == "p99 wait is no longer measured (the baseline's was 20 ms)"
    assert of(differences([summary()], [waiting(20.0)]), "wait_ms.p99").direction == "unknown"


def test_a_regression_fails_a_run_whose_expectations_all_held() -> None:
    run = waiting(40.0)
    outcome = Judgement([run], "", differences([waiting(20.0)], [run]), 0.1)
    assert outcome.verdict == "failed"
    assert EXIT_CODES[outcome.verdict] == 1
    assert outcome.sentence == (
        "failed: p99 wait 40 ms, 2.0 times the baseline's 20 ms (allowed: 10 %); every expectation held"
    )
    [failure] = suite(to_junit(outcome)).iter("failure")
    assert failure.get("message") == "wait_ms.p99 is 40 ms; the baseline has 20 ms (+100 %, noise ± 10 ms)"
    assert "| p99 wait | 20 ms | 40 ms | +100 % | ± 10 ms | worse |" in to_markdown(outcome)


def test_a_run_as_good_as_its_baseline_says_so() -> None:
    run = waiting(21.0)
    outcome = Judgement([run], "", differences([waiting(20.0)], [run]))
    assert outcome.verdict == "passed"
    assert outcome.sentence.endswith("; nothing worse than the baseline")


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("2.5 %", 0.025), ("0.2", 0.2), ("0", 0.0)])
def test_an_allowance_is_a_share(text: str, share: float) -> None:
    assert parse_share(text, "--max-regression") == pytest.approx(share)


def test_an_allowance_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"10% or 0\.1"):
        parse_share("ten", "--max-regression")


def recorded(folder: Path, **runs: Summary) -> Path:
    for name, run in runs.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "summary.json").write_text(run.model_dump_json())
    return folder


def test_a_baseline_is_a_file_a_run_or_the_runs_of_the_scenario_in_a_folder(tmp_path: Path) -> None:
    one, two, other = waiting(1.0), waiting(2.0), summary(scenario="other")
    recorded(tmp_path, one=one, other=other, unfinished=summary("interrupted"), two=two)
    law = one.strategy
    assert baseline([tmp_path], "s", law, "--baseline").runs == [one, two]
    named = [tmp_path / "one", tmp_path / "two" / "summary.json"]
    assert baseline(named, "s", law, "--baseline").runs == [one, two]
    wrong = {"other": "of the scenario other", "unfinished": "did not finish", "none": "cannot be read"}
    for path, problem in wrong.items():
        with pytest.raises(ConfigError, match=problem):
            baseline([tmp_path / path], "s", law, "--baseline")
    (tmp_path / "one" / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"not the summary.json of a run"):
        baseline([tmp_path / "one"], "s", law, "--baseline")


def test_of_a_folder_only_passed_runs_of_the_same_law_and_broker_are_the_baseline(tmp_path: Path) -> None:
    fit = summary(strategy="pace", broker="RabbitMQ", started_at="2026-01-02T12:00:00+00:00")
    recorded(
        tmp_path,
        fit=fit,
        failed=fit.model_copy(update={"verdict": "failed"}),
        law=fit.model_copy(update={"strategy": "aimd"}),
        broker=fit.model_copy(update={"broker": "Kafka"}),
    )
    found = baseline([tmp_path], "s", "pace", "--baseline").on("RabbitMQ")
    assert found.runs == [fit]
    assert found.told == (
        "1 run of s · pace · RabbitMQ 1, 2026-01-02 12:00:00; left out: 1 failed, 1 of the law aimd, 1 on Kafka"
    )
    with pytest.raises(ConfigError, match=r"under the law pid that passed \(1 of the law aimd, 3 of"):
        baseline([tmp_path], "s", "pid", "--baseline")
    with pytest.raises(ConfigError, match=r"Kafka and RabbitMQ.*has no passed run on embedded, where this ran"):
        baseline([tmp_path], "s", "pace", "--baseline").on("embedded")


def test_a_run_that_is_named_is_the_baseline_whatever_it_was_and_the_verdict_says_so(tmp_path: Path) -> None:
    recorded(tmp_path, named=summary("failed", strategy="aimd", broker="Kafka"))
    found = baseline([tmp_path / "named"], "s", "pace", "--baseline").on("RabbitMQ")
    assert found.told == "1 run of s · aimd · Kafka 1 that failed, 2026-01-01 00:00:00"
    outcome = Judgement([waiting(21.0)], "", differences([waiting(20.0)], [waiting(21.0)]), 0.1, found.told)
    assert f"(10 % allowed): {found.told}\n" in to_markdown(outcome)
    properties = {one.get("name"): one.get("value") for one in suite(to_junit(outcome)).iter("property")}
    assert properties["baseline"] == found.told


def test_a_mistake_in_the_command_line_is_told_in_the_files_too(tmp_path: Path) -> None:
    target = tmp_path / "s.md"
    arguments = ["run", "normal", "--runs", str(tmp_path), "--max-regression", "ten", "--summary-md", str(target)]
    done = CliRunner().invoke(pace, arguments)
    assert done.exit_code == 2
    assert "expected a share" in target.read_text()
    assert target.read_text().startswith("### ❌ error: normal")
