"""Which versions of a model serve, and as what."""

from trimtab_contracts.registry.v1.registry_pb2 import Deployment, VersionRef


def serving(deployment: Deployment) -> dict[str, VersionRef]:
    """Return the versions that a model's wanted state names: champion, challenger, others on trial beside it, and previous.

    Of an A/B test of several versions each is `challenger-N`, of version N, as answers name their arm.
    """
    found = {
        role: getattr(deployment, role) for role in ("champion", "challenger") if deployment.HasField(role)
    }
    if deployment.rollout.arms and "challenger" in found:
        for version in (found.pop("challenger"), *deployment.others):
            found[f"challenger-{version.number}"] = version
    if deployment.HasField("previous"):
        found["previous"] = deployment.previous
    return found
