"""The portal's settings for the bench of the intake: its own, with a bare view beside the webhook and no limits."""

from ocore.settings import *  # noqa: F403 - all of them

ROOT_URLCONF = "tests.bench.intake_urls"
OCORE_WEBHOOKS_PER_ADDRESS = OCORE_WEBHOOKS_PER_PROJECT = 0
