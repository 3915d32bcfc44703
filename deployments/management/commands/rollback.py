"""`manage.py rollback acme/production`: an earlier deployment's image again, with or without its data."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.utils import timezone

from deployments import further, services
from deployments.following import plain
from deployments.models import Deployment
from deployments.services import NotPossible, RollbackOffer
from deployments.terminal import PortalCommand, find_environment, introduce, shell_account
from ocore import consent
from ocore.show import relative
from projects.models import Environment

SHOWN = 5


class Command(PortalCommand):
    help = (
        "Go back to what was live before, or --to an earlier deployment. Image and settings return; the data stays "
        "unless --with-data. Says what will happen, then asks."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("environment", metavar="project/environment", help="Such as acme/production.")
        parser.add_argument(
            "--to", metavar="ID", help="Number of the deployment to go back to (default: the one before)."
        )
        parser.add_argument(
            "--with-data", action="store_true", help="Also database and filestore, as they were when it was replaced."
        )
        parser.add_argument(
            "--again", action="store_true", help="Try a failed rollback again; what it puts back is on record."
        )
        parser.add_argument("--yes", action="store_true", help="Don't ask.")
        parser.add_argument("--wait", action="store_true", help="Follow it to its end.")

    def handle(self, *args: Any, **options: Any) -> None:
        environment = find_environment(options["environment"])
        if options["again"]:
            self._try_again(environment, wait=options["wait"])
            return
        with_data = options["with_data"]
        offer = services.rollback_offer(environment, _target(environment, options["to"]), with_data=with_data)
        if with_data and offer.snapshot is None:
            raise NotPossible(
                f"No data of {offer.target} is kept any more.", advice="Leave --with-data out: image and settings only."
            )
        for line in _told(environment, offer, with_data=with_data):
            self.stdout.write(line)
        consent.require(agreed=options["yes"])
        deployment = services.roll_back(environment, shell_account(), target=offer.target, with_data=with_data)
        self.tell_queued(deployment)
        if options["wait"]:
            self.watch(deployment)

    def _try_again(self, environment: Environment, *, wait: bool) -> None:
        failed = services.broken_by(environment)
        if failed is None:
            raise NotPossible(f"No rollback has failed in {environment}.", advice="Leave --again out.")
        services.retry_rollback(failed, shell_account())
        self.stdout.write(introduce(failed))
        self.tell_trouble("But")
        if wait:
            self.watch(failed)


def _target(environment: Environment, number: str | None) -> Deployment | None:
    if number is None:
        return None
    digits = number.removeprefix("#")
    target = Deployment.objects.filter(pk=int(digits[:18])).first() if digits.isdecimal() else None
    if target is None or target.environment_id != environment.pk:
        raise NotPossible(f"“{plain(number)}” is no deployment of {environment}.", advice=_choices(environment))
    target.environment = environment
    return target


def _choices(environment: Environment) -> str:
    targets = services.rollback_targets(environment)[:SHOWN]
    if not targets:
        return "There is no earlier deployment to go back to."
    told = ", ".join(f"#{one.pk} (live from {_moment(one.live_at)})" for one in targets)
    return f"There is: {told}."


def _told(environment: Environment, offer: RollbackOffer, *, with_data: bool) -> list[str]:
    """What will happen, before it does."""
    target = offer.target
    live = Deployment.objects.filter(environment=environment, live=True).first()
    lines = [f"{environment} goes back to #{target.pk}, which went live {_moment(target.live_at)}."]
    if live:
        lines.append(f"  Live now   {_named(live)}")
    lines.append(f"  Then       {_named(target)}")
    if found := further.taken(target):
        lines.append(f"  With       {plain(', '.join(map(str, found)))}")
    lines.append(f"  Image      {plain(target.image) or 'as it was then'}")
    if with_data and offer.data_from:
        age = relative(offer.data_from)
        lines.append(f"  Data       as of {_moment(offer.data_from)}, {age}: what was entered since then goes.")
        lines.append("             A snapshot of today's data is taken first and kept.")
    else:
        lines.append("  Data       stays as it is now.")
        if offer.data_from:
            lines.append(f"             (--with-data would bring back that of {_moment(offer.data_from)}.)")
    if offer.newer_modules and not with_data:
        lines.append(f"  Careful    newer in the database than in this image: {', '.join(offer.newer_modules)}.")
        lines.append("             Odoo doesn't take a module's changes to the database back by itself.")
    return lines


def _named(deployment: Deployment) -> str:
    what = deployment.short_commit or plain(deployment.ref) or "plain Odoo"
    return f"#{deployment.pk} {what} {plain(deployment.subject)}".rstrip()


def _moment(moment: datetime | None) -> str:
    return moment.astimezone(timezone.get_default_timezone()).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "never"
