"""Pictures of what a net does: how its gradients flow, and what it answers where."""

from .decision_boundary import decision_boundary
from .gradient_flow import GradientFlow

__all__ = ["GradientFlow", "decision_boundary"]
