# SPDX-License-Identifier: Apache-2.0
"""Attributes of images: read from files, learned by classifiers, which then score generated images.

table       the attributes of a data set's images, as yes, no or unknown
heads       logistic classifiers on an encoder's features
classifier  from images to scores, ours or the user's own
"""

from .classifier import AttributeClassifier, Classifier, classify, load_classifier
from .heads import LogisticHeads, fit_heads
from .table import AttributeTable, read_attributes

__all__ = [
    "AttributeClassifier",
    "AttributeTable",
    "Classifier",
    "LogisticHeads",
    "classify",
    "fit_heads",
    "load_classifier",
    "read_attributes",
]
