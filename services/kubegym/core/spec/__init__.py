"""Manifests: the kinds of ``kubegym.dev/v1alpha1`` as typed, immutable values (DESIGN section 5).

``load_manifests`` reads them from YAML, ``manifest_from`` from parsed data. A local run and the operator's API read the
same models.
"""

from kubegym.core.spec.common import API_VERSION, Compute, ObjectMeta, Placement, SecretKeyRef, SecretRef
from kubegym.core.spec.environment import AgentSpec, GymEnvironment, GymEnvironmentSpec, ResourcesSpec
from kubegym.core.spec.load import Manifest, load_manifests, manifest_from, parse_manifests
from kubegym.core.spec.model import ModelBinding, ModelEndpoint, ModelServer, ModelServerSpec, ModelSource
from kubegym.core.spec.problems import InvalidManifests, SpecProblem, did_you_mean
from kubegym.core.spec.references import UnresolvedReference, models_for, unresolved_environments, unresolved_servers
from kubegym.core.spec.rolloutjob import (
    Dataset,
    EnvironmentEntry,
    FailurePolicy,
    Output,
    RolloutJob,
    RolloutJobSpec,
    Sampling,
)

__all__ = [
    "API_VERSION",
    "AgentSpec",
    "Compute",
    "Dataset",
    "EnvironmentEntry",
    "FailurePolicy",
    "GymEnvironment",
    "GymEnvironmentSpec",
    "InvalidManifests",
    "Manifest",
    "ModelBinding",
    "ModelEndpoint",
    "ModelServer",
    "ModelServerSpec",
    "ModelSource",
    "ObjectMeta",
    "Output",
    "Placement",
    "ResourcesSpec",
    "RolloutJob",
    "RolloutJobSpec",
    "Sampling",
    "SecretKeyRef",
    "SecretRef",
    "SpecProblem",
    "UnresolvedReference",
    "did_you_mean",
    "load_manifests",
    "manifest_from",
    "models_for",
    "parse_manifests",
    "unresolved_environments",
    "unresolved_servers",
]
