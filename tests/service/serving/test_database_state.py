"""What /readyz says of the database after each poll."""

from types import SimpleNamespace

from service.serving import database_state
from service.serving.database_state import DatabaseState


def test_a_silent_database_is_a_problem_until_it_answers(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(database_state, "time", SimpleNamespace(monotonic=lambda: clock.now))
    state = DatabaseState()
    state.query_started()

    clock.now = 104.0
    assert state.problem() is None
    clock.now = 107.0
    assert state.problem() == "the database has not answered for 7 s"
    state.query_succeeded()
    assert state.problem() is None


def test_a_failed_query_is_a_problem_until_the_next_answer():
    state = DatabaseState()
    state.query_started()

    state.query_failed("the database cannot be read")

    assert state.problem() == "the database cannot be read"
    state.query_succeeded()
    assert state.problem() is None
