"""What a run shows with and without a terminal."""

import io

from rich.console import Console as RichConsole

from archer.console import Console, format_duration

METRICS = {
    "reward/mean": 0.5,
    "reward/accuracy": 0.625,
    "policy/entropy": 0.31,
    "throughput/tokens_per_s": 1234.0,
    "time/step_s": 2.0,
}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def console(is_terminal=False, num_steps=10, width=120):
    output = RichConsole(
        file=io.StringIO(), force_terminal=is_terminal, width=width, highlight=False, soft_wrap=True
    )
    clock = Clock()
    return Console(num_steps, 0, output, clock), output, clock


def test_a_plain_step_is_one_line_with_the_eta_of_the_remaining_steps():
    shown, output, clock = console()
    clock.now = 65
    shown.step(4, METRICS)
    assert output.file.getvalue() == (
        "[1:05] step 4/10  reward 0.500  accuracy 0.625  entropy 0.310  tok/s 1,234  ETA 0:12\n"
    )


def test_long_plain_lines_are_not_wrapped():
    shown, output, _ = console(width=30)
    shown.step(4, METRICS)
    assert output.file.getvalue().count("\n") == 1


def test_evaluations_get_their_own_line_with_the_interval():
    shown, output, _ = console()
    shown.step(
        0,
        {
            "eval/a/avg@8": 0.4,
            "eval/a/avg@8_lo": 0.3,
            "eval/a/avg@8_hi": 0.5,
            "eval/a/pass@2": 0.6,
            "eval/a/response_tokens_mean": 40.0,
        },
    )
    assert output.file.getvalue() == (
        "[0:00] step 0 eval a:  avg@8 0.400 [0.300, 0.500]  pass@2 0.600\n"
    )


def test_messages_are_text_not_markup():
    shown, output, _ = console()
    shown.note("[red]x[/red] [/]")
    assert output.file.getvalue() == "[0:00] [red]x[/red] [/]\n"


def test_plain_progress_prints_every_tenth():
    shown, output, _ = console()
    with shown.progress("warm start", 700) as advance:
        for _ in range(700):
            advance()
    lines = output.file.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "[0:00] warm start 70/700" and lines[-1] == "[0:00] warm start 700/700"


def last_line(shown, output):
    with output.capture() as captured:
        output.print(shown._live_line())
    return captured.get()


def test_the_live_line_is_cut_rather_than_wrapped():
    shown, output, _ = console(is_terminal=True, width=60)
    with shown:
        shown.step(4, METRICS)
        assert last_line(shown, output).count("\n") == 1


def test_the_live_line_names_the_stage_with_its_age_beside_the_eta():
    shown, output, clock = console(is_terminal=True)
    with shown:
        shown.step(4, METRICS)
        shown.stage("sampling")
        clock.now = 7
        assert "ETA 0:12  sampling (0:07)" in last_line(shown, output)


def test_plain_stages_are_printed_around_the_steps_and_not_between_them():
    shown, output, _ = console(num_steps=2)
    shown.stage("starting")
    shown.step(1, METRICS)
    shown.stage("sampling")
    shown.step(2, METRICS)
    shown.stage("final evaluation")
    lines = output.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["starting", "step", "step", "final"]


def test_live_progress_shows_its_count_and_gives_the_line_back():
    shown, output, _ = console(is_terminal=True)
    with shown:
        with shown.progress("eval", 4) as advance:
            advance(2, "accuracy 0.5")
            assert "eval 2/4" in last_line(shown, output)
        assert "step 0/10" in last_line(shown, output)
    shown.close()  # a second time is harmless


def test_durations():
    assert [format_duration(s) for s in (5, 65, 7384, float("nan"))] == [
        "0:05",
        "1:05",
        "2:03:04",
        "-",
    ]
