# SPDX-License-Identifier: Apache-2.0
"""The record of what was done on GPUs: nothing is lost, and nothing counts where it wasn't found."""

from benchmarks.gpu.journal import BEGAN, DONE, FAILED, Journal
from tests.benchmarks.conftest import MACHINE


def reread(journal: Journal, end: int | None = None) -> Journal:
    found = Journal(journal.path)
    found.refresh(end)
    return found


def test_an_item_keeps_what_it_is_from_beginning_to_end(journal):
    journal.begin("cases", "a", 20.0, {"case": "bias_act"})
    assert reread(journal).of("cases")["a"].state == BEGAN and not reread(journal).ended("cases", "a")
    journal.done("cases", "a", {"median": 1.0})
    journal.begin("cases", "b")
    journal.fail("cases", "b", "too slow")
    a, b = reread(journal).of("cases").values()
    assert (a.state, a.max_seconds, a.labels, a.data) == (DONE, 20.0, {"case": "bias_act"}, {"median": 1.0})
    assert (b.state, b.max_seconds, b.reason) == (FAILED, None, "too slow")
    assert reread(journal).of("tests") == {}


def test_a_line_without_an_end_costs_itself_alone(journal):
    journal.done("cases", "a", {})
    with journal.path.open("ab") as file:
        file.write(b'{"stage": "cases", "item": "b", "sta')
    assert list(reread(journal).of("cases")) == ["a"]
    again = Journal(journal.path)
    again.name(MACHINE)
    again.done("cases", "c", {})
    assert list(reread(journal).of("cases")) == ["a", "c"]


def test_what_another_machine_or_version_found_does_not_count_here(journal):
    journal.done("cases", "a", {"median": 1.0})
    journal.name(MACHINE | {"chip": "another"})
    assert reread(journal).of("cases") == {}
    journal.done("cases", "a", {"median": 2.0})
    journal.name(MACHINE)
    assert reread(journal).of("cases")["a"].data == {"median": 1.0}


def test_what_is_to_be_done_again_counts_as_not_done(journal):
    for stage, item in (("cases", "bias_act"), ("cases", "styled"), ("compile", "bias_act")):
        journal.done(stage, item, {})
    journal.forget(["cases"], "bias")
    assert list(reread(journal).entries) == [("cases", "styled"), ("compile", "bias_act")]


def test_reading_goes_on_where_it_was_and_ends_where_it_is_told(journal):
    journal.done("cases", "a", {})
    end = journal.path.stat().st_size
    assert journal.refresh() and not journal.refresh()
    journal.done("cases", "b", {})
    assert list(reread(journal, end).of("cases")) == ["a"]
    assert journal.refresh() and list(journal.of("cases")) == ["a", "b"]
