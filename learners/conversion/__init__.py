"""From a fitted model to its action.

Every model that knows ln p, whoever made it, becomes a `fieldtheory.Action`: `to_action`. What was lost is said by `certify`, how the
couplings build up through the layers of a flow by `trace_action` and along training by `record_couplings`; in many variables they are
asked for along directions.
"""

from .averages import normal_ordered
from .certificate import Certificate, certify
from .large import LeadingDirections, coupling_along, factored_cubic, leading_directions
from .methods import to_action
from .projection import ModelProjection, project
from .recorder import CouplingRecorder, record_couplings
from .trace import ActionTrace, LayerTrace, trace_action

__all__ = ["ActionTrace", "Certificate", "CouplingRecorder", "LayerTrace", "LeadingDirections", "ModelProjection", "certify",
           "coupling_along", "factored_cubic", "leading_directions", "normal_ordered", "project", "record_couplings", "to_action",
           "trace_action"]
