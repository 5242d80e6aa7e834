"""The ridge regression of the statistics branch as a scikit-learn classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from leaknet.calibration.temperature import fit_temperature
from leaknet.model.feature_space import Views, fit_space
from leaknet.model.ridge import RidgeMap


class LeakClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # untyped bases
    """Names the generator from rows of statistics, one row an image.

    Features are standardised and clipped at three deviations. The strength of the regression and
    the temperature of its probabilities are chosen by prompt groups left out; see
    `leaknet.model.ridge`. It has no settings. Rows of a cache: `leaknet.LatentDataset`.

    Attributes:
        classes_: in the order of `predict_proba`.
        temperature_: of the class scores.
    """

    classes_: np.ndarray
    temperature_: float

    def fit(
        self,
        X: Any,
        y: Any,
        groups: Any = None,
    ) -> LeakClassifier:
        """Fit.

        Args:
            X: rows of statistics, image × value.
            y: class of each row, at least two.
            groups: prompt group of each row; each is a group of its own without.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("LeakClassifier needs at least 2 classes; the data has 1 class")
        groups = np.arange(len(y)) if groups is None else np.asarray(groups)
        self._map = RidgeMap({"values": X.shape[1]})
        wanted = np.eye(len(self.classes_))[targets] - 1 / len(self.classes_)
        space = fit_space(self._map.features, Views.of(torch.from_numpy(X)), groups)
        found = space.fit_ridge(wanted)
        self._map.set_weights(space.weights(found.dual).numpy())
        self.temperature_ = fit_temperature(found.held_out, targets)
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, "image ..."]:
        """Class scores; with two classes those of the second less those of the first."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Float[np.ndarray, "image class"]:
        """Calibrated probabilities of the classes."""
        found: np.ndarray = softmax(self._scores(X) / self.temperature_, axis=1)
        return found

    def predict(self, X: Any) -> Shaped[np.ndarray, " image"]:
        """The likeliest class of each row."""
        best = self._scores(X).argmax(axis=1)
        found: np.ndarray = self.classes_[best]
        return found

    def _scores(self, X: Any) -> Float[np.ndarray, "image class"]:
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        found: np.ndarray = self._map(torch.from_numpy(rows)).double().numpy()
        return found
