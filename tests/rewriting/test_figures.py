import numpy as np
import pandas as pd
import pytest

from lmops_lab.rewriting.evaluation import USER, evaluate_rewriters
from lmops_lab.rewriting.figures import plot_gains, plot_training
from lmops_lab.rewriting.search import FixedSuffix
from tests.rewriting.pictures import PaintGenerator, rabbit_relevance, red

CURVE = pd.DataFrame({"step": [1, 2, 3, 4], "reward": [0.0, 2.0, np.nan, 4.0], "kl": [0.1, 0.2, 0.3, 0.4]})


def test_the_line_is_the_running_mean_of_the_steps_that_were_logged():
    axes = plot_training({"RL": CURVE}, {"reward": "mean reward"}, window=2).axes[0]
    dots, line = axes.lines
    assert dots.get_xdata().tolist() == [1, 2, 4]
    assert dots.get_ydata().tolist() == [0, 2, 4]
    assert line.get_ydata().tolist() == [0, 1, 3]
    assert axes.get_ylabel() == "mean reward"


def test_every_column_has_a_panel_and_a_training_without_it_no_line():
    figure = plot_training({"RL": CURVE, "SFT": CURVE[["step", "kl"]]}, {"reward": "reward", "kl": "divergence"})
    assert [len(axes.lines) for axes in figure.axes] == [2, 4]
    assert figure.axes[-1].get_xlabel() == "step"


def test_evaluations_are_not_smoothed():
    curve = pd.DataFrame({"step": [10, 20], "eval_loss": [3.0, 1.0]})
    assert plot_training({"SFT": curve}, {"eval_loss": "loss"}).axes[0].lines[1].get_ydata().tolist() == [3, 1]


def test_a_column_that_nobody_logged_is_named():
    with pytest.raises(ValueError, match=r"no training logged 'rewards'; there are kl, reward, step"):
        plot_training({"RL": CURVE}, {"rewards": "reward"})
    with pytest.raises(ValueError, match="window is 0"):
        plot_training({"RL": CURVE}, {"reward": "reward"}, window=0)


def test_gains_are_those_of_the_evaluation():
    prompts = {"in": ["a rabbit", "a cat"], "out": ["a ship", "a red rabbit"]}
    methods = {"short": FixedSuffix(("8k",)), "long": FixedSuffix(("sharp focus", "8k", "wow"))}
    rewards = {"relevance": rabbit_relevance, "aesthetic": red}
    evaluation = evaluate_rewriters(prompts, methods, PaintGenerator(), rewards, seeds=(0, 1))
    figure = plot_gains(evaluation)
    axes = figure.axes[0]
    marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert marks == pytest.approx(
        [evaluation.difference(name, USER, "reward", domain).mean for domain in ("in", "out") for name in methods]
    )
    assert [text.get_text() for text in axes.get_yticklabels()] == ["short", "long"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["in", "out"]
    figure.draw_without_rendering()
    assert not figure.legends[0].get_window_extent().overlaps(axes.get_window_extent())
    with pytest.raises(ValueError, match="unknown metric 'beauty'"):
        plot_gains(evaluation, "beauty")
