"""From a fitted model to its action.

Every model that knows ln p, whoever made it, becomes a `fieldtheory.Action`: `to_action`. What was lost is said by `certify`.
"""

from .averages import normal_ordered
from .certificate import Certificate, certify
from .methods import to_action
from .projection import ModelProjection, project

__all__ = ["Certificate", "ModelProjection", "certify", "normal_ordered", "project", "to_action"]
