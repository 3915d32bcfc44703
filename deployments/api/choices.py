"""What a field may be. Each lists its values where it is used: ninja names what is described once by its class alone,
and there are three of the name `State`."""

from typing import Annotated

from django.db.models import TextChoices
from pydantic import WithJsonSchema

from deployments import condition, states, tokens
from deployments.models import Delivery, Snapshot
from instances.models import Instance
from projects.models import Environment, Server


def _listed(choices: type[TextChoices]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": choices.values})


DeliveryOrigin = Annotated[Delivery.Origin, _listed(Delivery.Origin)]
DeliveryVerdict = Annotated[Delivery.Verdict, _listed(Delivery.Verdict)]
EnvironmentKind = Annotated[Environment.Kind, _listed(Environment.Kind)]
EnvironmentState = Annotated[condition.State, _listed(condition.State)]
InstanceState = Annotated[Instance.State, _listed(Instance.State)]
ServerKind = Annotated[Server.Kind, _listed(Server.Kind)]
SnapshotState = Annotated[Snapshot.State, _listed(Snapshot.State)]
Status = Annotated[states.Status, _listed(states.Status)]
StepKind = Annotated[states.StepKind, _listed(states.StepKind)]
StepStatus = Annotated[states.StepStatus, _listed(states.StepStatus)]
Trigger = Annotated[states.Trigger, _listed(states.Trigger)]
Verb = Annotated[tokens.Verb, _listed(tokens.Verb)]
Way = Annotated[states.Way, _listed(states.Way)]
