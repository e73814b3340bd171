"""The process's state moves forward only, and says what readers ask."""

import pytest

from service.core.errors import Draining
from service.core.lifecycle import Lifecycle, Phase


def test_every_phase_says_whether_the_process_is_ready_stopping_and_accepts_calls() -> None:
    lifecycle = Lifecycle()
    seen = []
    for phase in Phase:
        lifecycle.advance(phase)
        seen.append((lifecycle.unready_reason, lifecycle.stopping, lifecycle.accepts_calls))
    assert seen == [
        ("models are still loading", False, True),
        ("", False, True),
        ("draining", True, True),
        ("draining", True, False),
        ("draining", True, False),
    ]


@pytest.mark.parametrize("late", [Phase.READY, Phase.LAME_DUCK])
def test_the_state_never_moves_back(late: Phase) -> None:
    """The first scan may end after a stop has begun."""
    lifecycle = Lifecycle()
    lifecycle.advance(Phase.DRAINING)
    lifecycle.advance(late)
    assert lifecycle.phase is Phase.DRAINING and not lifecycle.accepts_calls


def test_the_time_of_the_last_refusal_is_kept() -> None:
    lifecycle = Lifecycle()
    for now in (5.0, 7.0):
        with pytest.raises(Draining):
            lifecycle.refuse(now)
    assert lifecycle.last_refused_at == 7.0
