"""The final report of a classifier, computed on the host by scikit-learn."""

from typing import Any

import numpy as np
import scipy.special
import sklearn.metrics


def report(logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Measures predictions against labels.

    Args:
        logits: float [examples, classes].
        labels: int [examples].
        class_names: in label order.

    Returns:
        examples (a count), loss (mean cross-entropy, nats), accuracy (share), error (percent),
        confusion_matrix (counts, rows = true class), and per class precision, recall, f1 and
        support. What is undefined (no prediction or no example of a class) is NaN.

    Raises:
        ValueError: if there are no examples.
    """
    if len(labels) == 0:
        raise ValueError("a classifier cannot be measured on no examples")
    classes = np.arange(len(class_names))
    predicted = logits.argmax(-1)
    log_likelihood = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    accuracy = float(sklearn.metrics.accuracy_score(labels, predicted))
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    return {
        "examples": len(labels),
        "loss": float(-log_likelihood[np.arange(len(labels)), labels].mean()),
        "accuracy": accuracy,
        "error": 100 * (1 - accuracy),
        "confusion_matrix": sklearn.metrics.confusion_matrix(
            labels, predicted, labels=classes
        ).tolist(),
        "per_class": [
            {
                "class": class_names[i],
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i in classes
        ],
    }
