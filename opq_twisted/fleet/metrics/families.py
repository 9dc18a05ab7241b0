"""Makes the series of the metrics from the counts in the database."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from opq_twisted.fleet.engine.assessment import Assessment
from opq_twisted.fleet.engine.decision import Action
from opq_twisted.fleet.metrics.figures import Figures
from opq_twisted.fleet.settings import Rollouts


def families(figures: Figures, mode: Rollouts) -> Iterator[Metric]:
    """Yield the series; each label has a limited number of values."""
    yield from _counts(figures)
    yield from _rollouts(figures)
    if mode == "off":
        return
    yield from _assessments(figures, mode)
    ran_at = GaugeMetricFamily(
        "opq_fleet_engine_run_timestamp_seconds", "When an engine last judged the rollouts."
    )
    if figures.engine_ran_at is not None:
        ran_at.add_metric([], figures.engine_ran_at)
    yield ran_at


def _counts(figures: Figures) -> Iterator[Metric]:
    boxes = GaugeMetricFamily("opq_fleet_boxes", "Keys of boxes.", labels=["channel", "state"])
    for labels, number in figures.boxes.items():
        boxes.add_metric(labels, number)
    outcomes = GaugeMetricFamily(
        "opq_fleet_outcomes", "Attempts to install a release.", labels=["release", "outcome"]
    )
    for (release, outcome), number in figures.outcomes.items():
        outcomes.add_metric([str(release), outcome], number)
    yield from (boxes, outcomes)


def _rollouts(figures: Figures) -> Iterator[Metric]:
    pace = GaugeMetricFamily(
        "opq_fleet_pace_bp",
        "The share of the boxes that may install a release, in hundredths of a percent.",
        labels=["channel", "release"],
    )
    held = GaugeMetricFamily(
        "opq_fleet_held", "1 while a release is held.", labels=["channel", "release"]
    )
    for each in figures.rollouts:
        pace.add_metric([each.channel, str(each.release)], each.bp)
        held.add_metric([each.channel, str(each.release)], int(each.is_held))
    yield from (pace, held)


def _assessments(figures: Figures, mode: Rollouts) -> Iterator[Metric]:
    labels = ["channel", "release"]
    boxes = GaugeMetricFamily(
        "opq_fleet_rollout_boxes",
        "Boxes that began to install a release, as the engine counts them.",
        labels=[*labels, "result"],
    )
    limit = GaugeMetricFamily(
        "opq_fleet_rollout_holds_at",
        "Bad boxes at which a release is held, after as many boxes as now.",
        labels=labels,
    )
    asking = GaugeMetricFamily(
        "opq_fleet_asking", "1 while a release needs the decision of a person.", labels=labels
    )
    silent = GaugeMetricFamily(
        "opq_fleet_silent",
        "1 while many boxes that installed nothing are silent.",
        labels=["channel"],
    )
    for each in figures.assessments:
        which, evidence = [each.rollout.channel, str(each.rollout.release)], each.evidence
        boxes.add_metric([*which, "well"], evidence.well)
        boxes.add_metric([*which, "bad"], evidence.bad)
        boxes.add_metric([*which, "under-way"], evidence.under_way)
        limit.add_metric(which, evidence.test.holds_at(evidence.tested))
        asking.add_metric(which, int(_is_asking(each, mode)))
        silent.add_metric([each.rollout.channel], int(each.circumstances.is_fleet_silent))
    yield from (boxes, limit, asking, silent)


def _is_asking(each: Assessment, mode: Rollouts) -> bool:
    action = None if each.decision is None else each.decision.action
    if mode == "observe" and action is Action.HOLD:
        return True
    return action is Action.ASK or (mode == "ask" and action is Action.WIDEN)
