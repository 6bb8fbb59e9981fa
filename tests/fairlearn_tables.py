"""Random tables of predictions with what fairlearn's MetricFrame and scikit-learn say of them.

    python tests/fairlearn_tables.py --seed 0 > stages/src/evaluate_groups/fairlearn.json
    python tests/fairlearn_tables.py --seed 7 --tables 200 > /tmp/more.json
    PALINODE_FAIRLEARN=/tmp/more.json cargo test -p palinode-stages --lib evaluate_groups

The first makes the file that the unit tests of `evaluate.groups` are compared with, the others compare with new tables.
"""

import argparse
import json

import numpy as np
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score


def ece(confidence, right, bins=15):
    """Guo et al. 2017, eq. 5, as in the authors' temperature_scaling.py: bins hold their upper edge."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    return float(total)


def table(rng):
    classes = [f"c{number}" for number in range(rng.integers(2, 5))]
    groups = [f"g{number}" for number in range(rng.integers(2, 5))]
    size = int(rng.integers(8, 60))
    # Every group has two members.
    group = np.array(groups * 2 + list(rng.choice(groups, size)))
    size = len(group)
    label = rng.choice(classes, size)
    probabilities = np.round(rng.dirichlet(np.ones(len(classes)), size), 6)
    predicted = np.array(classes)[probabilities.argmax(1)]
    # Often right, so that groups differ.
    better = rng.random(size) < 0.4
    for row in np.flatnonzero(better):
        other = classes.index(label[row])
        most = probabilities[row].argmax()
        probabilities[row, [other, most]] = probabilities[row, [most, other]]
        predicted[row] = label[row]
    macro = lambda y, p: f1_score(y, p, average="macro", zero_division=0)
    frame = MetricFrame(
        metrics={"accuracy": accuracy_score, "f1": macro}, y_true=label, y_pred=predicted, sensitive_features=group
    )
    by_group = {}
    for name in groups:
        rows = group == name
        confusion = confusion_matrix(label[rows], predicted[rows], labels=classes)
        by_group[name] = {
            "accuracy": float(frame.by_group.loc[name, "accuracy"]),
            "f1": float(frame.by_group.loc[name, "f1"]),
            "ece": ece(probabilities[rows].max(1), (label == predicted)[rows]),
            "confusion": {
                one: {other: int(confusion[i, j]) for j, other in enumerate(classes) if confusion[i, j]}
                for i, one in enumerate(classes)
                if confusion[i].any()
            },
        }
    rows = [
        {
            "id": f"r{row}",
            "label": str(label[row]),
            "group": str(group[row]),
            "split": "test",
            "predicted": str(predicted[row]),
            "probabilities": dict(zip(classes, map(float, probabilities[row]))),
        }
        for row in range(size)
    ]
    return {
        "predictions": rows,
        "by_group": by_group,
        "accuracy": float(frame.overall["accuracy"]),
        "f1": float(frame.overall["f1"]),
        "difference": float(frame.difference()["accuracy"]),
        "worst": float(frame.group_min()["accuracy"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", type=int, default=6)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print(json.dumps([table(rng) for _ in range(options.tables)]))
