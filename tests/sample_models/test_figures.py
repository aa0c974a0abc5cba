from __future__ import annotations

from sample_models.figures import Figure, Figures, paired_medians_ms, percent


def test_table_stands_in_columns_with_the_notes_below() -> None:
    figures = Figures(
        title="a network",
        rows=(Figure("with BN", "99.02 %", "98.90 %"), Figure("flips", "", "0")),
        notes=("How it was measured.",),
    )

    assert str(figures).splitlines() == [
        "a network",
        "         published     ours",
        "with BN    99.02 %  98.90 %",
        "flips                     0",
        "How it was measured.",
    ]


def test_share_is_printed_as_the_sources_print_it() -> None:
    assert percent(0.68541) == "68.54 %"


def test_calls_are_timed_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []

    first_ms, second_ms = paired_medians_ms(lambda: calls.append("A"), lambda: calls.append("B"), rounds=3)

    assert "".join(calls) == "ABABABAB"
    assert first_ms > 0
    assert second_ms > 0
