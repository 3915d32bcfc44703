"""Anything dies at any instant, by a seed: real programs, a real queue, a real webhook."""

import random
import time

from deployments.models import Deployment
from deployments.states import ACTIVE, Status
from instances.models import Incident
from tests.chaos.outside import Broken
from tests.chaos.programs import ENGINE_VICTIMS, VICTIMS, Portal, some_victims
from tests.chaos.systematic import Say, Tally, version_of
from tests.chaos.world import DEPLOY_SECONDS, SEEN_SECONDS, back_seconds

KINDS = ("update", "update", "code-only", "broken")


def attempt(portal: Portal, seed: int, tally: Tally, say: Say) -> None:
    """One push, some deaths, and everything back half a second after each."""
    dice = random.Random(seed)
    world = portal.world
    began = time.monotonic()
    kind, victims = dice.choice(KINDS), some_victims(dice, VICTIMS + (ENGINE_VICTIMS if world.engine else ()))
    what = f"{kind}, {', '.join(f'{victim} at {at} s' for at, victim in victims)}"
    tally.runs += 1
    Incident.objects.all().delete()  # the tenth accident within minutes would be given up, and rightly
    try:
        old = version_of(world.live)
        _commit(portal, kind)
        portal.announce()
        pushed = time.monotonic()
        for at, victim in victims:
            time.sleep(max(0.0, pushed + at - time.monotonic()))
            portal.kill(victim)
        time.sleep(0.5)
        portal.start()
        if world.engine:
            world.engine.wait_until_back()
        took = _until_all_ended(portal, back_seconds())
        deployment = Deployment.objects.filter(environment=world.environment).latest()
        _check(portal, deployment, old, back_seconds() - took)
        ended = deployment.status
        _next_push(portal)
    except Broken as error:
        line = f"make chaos RANDOM=1 N=1 SEED={seed}"
        tally.failures.append(f"seed {seed}: {what}:\n{error}\n    {line}")
        say(f"{tally.runs:4} BROKEN {tally.failures[-1]}")
        world.remove_leftovers()
        return
    say(f"{tally.runs:4} seed {seed}: {what}: {ended} {took:.1f} s after it was back, {time.monotonic() - began:.1f} s")


def _commit(portal: Portal, kind: str) -> None:
    if kind == "code-only":
        portal.world.commit_code_only()
    else:
        portal.world.commit_update(**({"fail_update": True} if kind == "broken" else {}))


def _until_all_ended(portal: Portal, seconds: float) -> float:
    began = time.monotonic()
    while active := list(Deployment.objects.filter(status__in=ACTIVE)):
        if time.monotonic() - began > seconds:
            raise Broken(f"not at an end after {seconds:.0f} s: {[(str(one), one.status) for one in active]}")
        time.sleep(0.1)
    took = time.monotonic() - began
    portal.world.slowest = max(portal.world.slowest, took)
    return took


def _next_push(portal: Portal) -> None:
    world = portal.world
    old = version_of(world.live)
    world.commit_update()
    portal.announce()
    _until_all_ended(portal, DEPLOY_SECONDS)
    deployment = Deployment.objects.filter(environment=world.environment).latest()
    if deployment.status != Status.SUCCEEDED:
        raise Broken(f"the next push did not go live: {deployment.status} {deployment.error} {deployment.detail}")
    _check(portal, deployment, old, SEEN_SECONDS)
    world.tidy()


def _check(portal: Portal, deployment: Deployment, old: str, seconds: float) -> None:
    """What is to hold may come to hold within that time: PostgreSQL may be starting, a worker tidying up."""
    deadline = time.monotonic() + max(seconds, SEEN_SECONDS)
    while True:
        try:
            portal.world.check(deployment, old, f"19.0.1.0.{portal.world.version}")
        except Broken:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return
